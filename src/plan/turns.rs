//! Whose turn it is, where more want to work than may at once: bindings without a token first, then those whose token ends first; and
//! no namespace before another one that has fewer at work.

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroUsize,
    time::Duration,
};

/// How urgent a binding is; the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// From then on it has no token: since it asked, or when the one that it has ends. So the order holds while they wait. Counted on any
    /// clock that makes no steps.
    Without(Duration),
    /// It has none, and the last try has failed.
    Failing,
}

impl Rank {
    /// Of a binding that asks at the time `asked`, whose token is good for the time that is `left`, and which `failed` when it was last tried.
    #[must_use]
    pub fn of(left: Option<Duration>, failed: bool, asked: Duration) -> Self {
        match left {
            Some(left) => Self::Without(asked.saturating_add(left)),
            None if failed => Self::Failing,
            None => Self::Without(asked),
        }
    }
}

/// Who holds a place or waits for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    tenant: String,
    /// Of equals who came first goes first.
    order: (Rank, u64),
}

impl Ticket {
    /// Which no other ticket has.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.order.1
    }
}

/// Places, and who waits for one.
#[derive(Debug)]
pub struct Turns {
    free: usize,
    tickets: u64,
    tenants: HashMap<String, Tenant>,
    /// Each tenant that waits, by how many of it are at work, and then by its first in line.
    line: BTreeSet<(usize, (Rank, u64), String)>,
}

#[derive(Debug, Default)]
struct Tenant {
    at_work: usize,
    waiting: BTreeSet<(Rank, u64)>,
}

impl Turns {
    /// With so many `places`.
    #[must_use]
    pub fn new(places: NonZeroUsize) -> Self {
        Self { free: places.get(), tickets: 0, tenants: HashMap::new(), line: BTreeSet::new() }
    }

    /// Puts somebody in line. [`Turns::call`] says whose turn it is.
    pub fn ask(&mut self, tenant: &str, rank: Rank) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket { tenant: tenant.to_owned(), order: (rank, self.tickets) };
        self.change(tenant, |tenant| _ = tenant.waiting.insert(ticket.order));
        ticket
    }

    /// Gives a free place to whose turn it is.
    pub fn call(&mut self) -> Option<Ticket> {
        self.free = self.free.checked_sub(1)?;
        let Some((_, order, tenant)) = self.line.first().cloned() else {
            self.free += 1;
            return None;
        };
        self.change(&tenant, |tenant| {
            tenant.waiting.remove(&order);
            tenant.at_work += 1;
        });
        Some(Ticket { tenant, order })
    }

    /// Takes the place back that `ticket` was given, or out of the line who is still there.
    pub fn leave(&mut self, ticket: &Ticket) {
        let mut worked = false;
        self.change(&ticket.tenant, |tenant| {
            worked = !tenant.waiting.remove(&ticket.order);
            tenant.at_work -= usize::from(worked);
        });
        self.free += usize::from(worked);
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.tenants.values().map(|tenant| tenant.waiting.len()).sum()
    }

    /// Changes a tenant, and with it the tenant's place in line.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Tenant)) {
        let mut tenant = self.tenants.remove(name).unwrap_or_default();
        if let Some(first) = tenant.waiting.first() {
            self.line.remove(&(tenant.at_work, *first, name.to_owned()));
        }
        change(&mut tenant);
        if let Some(first) = tenant.waiting.first() {
            self.line.insert((tenant.at_work, *first, name.to_owned()));
        }
        if tenant.at_work > 0 || !tenant.waiting.is_empty() {
            self.tenants.insert(name.to_owned(), tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(places: usize) -> Turns {
        Turns::new(NonZeroUsize::new(places).unwrap())
    }

    /// Without a token from that minute on.
    const fn at(minute: u64) -> Rank {
        Rank::Without(Duration::from_secs(60 * minute))
    }

    /// Asks for all of them, and says in which order they are served one after another.
    fn order(asks: &[(&'static str, Rank)]) -> Vec<usize> {
        let mut turns = turns(1);
        let tickets: Vec<_> = asks.iter().map(|(tenant, rank)| turns.ask(tenant, *rank)).collect();
        let mut served = Vec::new();
        while let Some(ticket) = turns.call() {
            served.push(tickets.iter().position(|t| *t == ticket).unwrap());
            assert_eq!(turns.call(), None, "there is one place");
            turns.leave(&ticket);
        }
        assert!(turns.tenants.is_empty() && turns.line.is_empty() && turns.free == 1);
        served
    }

    #[test]
    fn without_a_token_first_then_nearest_to_expiry_then_what_failed() {
        let asks = [("a", Rank::Failing), ("a", at(30)), ("b", at(20)), ("a", at(10)), ("b", at(10))];
        assert_eq!(order(&asks), [3, 4, 2, 1, 0]);
        assert_eq!(order(&[("a", at(20)), ("b", at(20)), ("a", at(20))]), [0, 1, 2], "equals as they came");
    }

    #[test]
    fn a_tenant_with_less_at_work_goes_first() {
        let mut turns = turns(4);
        let many: Vec<_> = (0..10).map(|_| turns.ask("many", at(0))).collect();
        for ticket in &many[..4] {
            assert_eq!(turns.call().as_ref(), Some(ticket));
        }
        let late = turns.ask("few", Rank::Failing);
        assert_eq!(turns.call(), None, "all places are taken");
        turns.leave(&many[1]);
        assert_eq!(turns.call(), Some(late), "although its rank is the last");
        turns.leave(&many[0]);
        assert_eq!(turns.call().as_ref(), Some(&many[4]), "nobody else waits");
    }

    #[test]
    fn two_tenants_share_the_places_whoever_came_first() {
        let mut turns = turns(10);
        for _ in 0..100 {
            turns.ask("first", at(0));
        }
        for _ in 0..100 {
            turns.ask("second", at(20));
        }
        let mut served = HashMap::<String, usize>::new();
        while let Some(ticket) = turns.call() {
            *served.entry(ticket.tenant).or_default() += 1;
        }
        assert_eq!((served["first"], served["second"]), (5, 5));
        assert_eq!(turns.waiting(), 190);
    }

    #[test]
    fn who_leaves_the_line_gives_no_place_back() {
        let mut turns = turns(1);
        let at_work = turns.ask("a", at(0));
        assert_eq!(turns.call(), Some(at_work.clone()));
        let gone = turns.ask("a", at(0));
        turns.leave(&gone);
        assert_eq!((turns.call(), turns.waiting()), (None, 0));
        turns.leave(&at_work);
        let next = turns.ask("b", at(0));
        assert_eq!((turns.call(), turns.call()), (Some(next), None));
    }

    #[test]
    fn rank_tells_a_good_token_from_none() {
        let [asked, left] = [100, 7].map(Duration::from_secs);
        for (left, failed, rank) in [
            (None, false, Rank::Without(Duration::from_secs(100))),
            (Some(left), false, Rank::Without(Duration::from_secs(107))),
            (Some(left), true, Rank::Without(Duration::from_secs(107))),
            (Some(Duration::MAX), true, Rank::Without(Duration::MAX)),
            (None, true, Rank::Failing),
        ] {
            assert_eq!(Rank::of(left, failed, asked), rank);
        }
    }
}
