use serde_json::json;

use super::*;

/// One tenth fails; what is looked at is a healthy binding that is there from the start.
struct Book {
    population: Population,
    ledger: Ledger,
    position: usize,
}

const HOURS: u64 = 3;

impl Book {
    fn begin() -> Self {
        clock::begin();
        let population = Population::draw(1, 100, HOURS * 3600, true);
        let of = |binding: &Binding| {
            population.is_healthy(binding)
                && binding.created == 0
                && binding.refresh_percent == 60
                && binding.identity != Identity::Operator
        };
        let position = population.bindings.iter().position(of).unwrap();
        let mut ledger = Ledger::new(HOURS * 3600, 100);
        ledger.created(position);
        Self { population, ledger, position }
    }

    fn led(&mut self, from: u64, until: u64) {
        (from..until).for_each(|second| self.ledger.availability.led(second));
        self.ledger.availability.leaderless(until);
    }

    fn binding(&self) -> &Binding {
        &self.population.bindings[self.position]
    }

    /// A Secret as the controller writes it.
    fn secret(&self, audience: &str, expires: u64) -> Value {
        let (binding, at) = (self.binding(), clock::at(std::time::Duration::from_secs(expires)));
        let claims = json!({"aud": audience, "email": binding.email(), "exp": at.as_second()}).to_string();
        let token = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims));
        json!({
            "type": "idtoken.dev/id-token",
            "metadata": {"name": binding.secret(), "namespace": binding.namespace(), "ownerReferences": [{"uid": binding.uid}]},
            "data": {"id_token": BASE64_STANDARD.encode(token)},
        })
    }

    fn write(&mut self, before: Option<&Value>, now: &Value) {
        self.ledger.secret_written(&self.population, "one", Some("one"), before, now);
    }

    /// The binding gets a token that ends at that second.
    async fn token(&mut self, second: u64, expires: u64) {
        clock::reach(std::time::Duration::from_secs(second)).await;
        let secret = self.secret(&self.binding().audience.clone(), expires);
        self.write(None, &secret);
    }

    fn broken(&self) -> Vec<(Rule, u64)> {
        self.ledger.failures.iter().map(|(rule, (times, _))| (*rule, *times)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_in_time_is_no_failure_and_its_rest_is_noted() {
    let mut book = Book::begin();
    book.led(0, 3 * 3600);
    book.token(5, 3605).await;
    book.token(2165, 5765).await;
    assert_eq!(book.broken(), []);
    let account = book.ledger.bindings[book.position];
    assert_eq!((account.waited, account.least_left), (Some(5), Some(1440)));
}

#[tokio::test(start_paused = true)]
async fn a_late_token_that_could_have_been_had_is_a_failure() {
    let mut book = Book::begin();
    book.led(0, 3 * 3600);
    book.token(5, 3605).await;
    book.token(3606, 7206).await;
    assert_eq!(book.broken(), [(Rule::Late, 1)]);
    assert!(
        book.ledger.failures[&Rule::Late]
            .1
            .contains("had an expired token for 1 s, though one could be had for 1381 s together")
    );
}

#[tokio::test(start_paused = true)]
async fn a_late_token_is_none_where_none_could_be_had_for_long_enough() {
    for (available, broken) in [(199, 0), (200, 1)] {
        let mut book = Book::begin();
        book.led(0, 3 * 3600);
        book.token(5, 3605).await;
        // Down, up for a while since it is due, and down again.
        book.ledger.availability.lacks(Cause::Google, 2000, 2400);
        book.ledger.availability.lacks(Cause::Google, 2400 + available, 4000);
        book.token(4010, 7610).await;
        assert_eq!(book.broken().len(), broken, "{available}");
        assert_eq!(book.ledger.counts.unavoidable, u64::from(broken == 0));
    }
}

/// It is due at 2165, a minute more is forgiven, and its last ten minutes begin at 3005.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_kept_until_its_last_minutes_is_a_failure_where_another_could_be_had() {
    for (replaced, outage, broken) in
        [(3005, 0..0, false), (3006, 0..0, true), (3006, 2200..2400, true), (3006, 2200..2407, false)]
    {
        let mut book = Book::begin();
        book.led(0, 3 * 3600);
        book.token(5, 3605).await;
        book.ledger.availability.lacks(Cause::Google, outage.start, outage.end);
        book.token(replaced, 7206).await;
        let expected: &[(Rule, u64)] = if broken { &[(Rule::Left, 1)] } else { &[] };
        assert_eq!(book.broken(), expected, "{replaced} {outage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_token_that_is_long_in_coming_is_a_failure_also_where_it_never_comes() {
    let mut book = Book::begin();
    book.led(0, 3 * 3600);
    book.token(201, 3801).await;
    assert_eq!(book.broken(), [(Rule::Late, 1)]);
    let mut book = Book::begin();
    book.led(0, 3 * 3600);
    let binding = book.binding().clone();
    book.ledger.judge(&binding, book.position, 200);
    assert_eq!(book.broken(), []);
    book.ledger.judge(&binding, book.position, 3600);
    assert_eq!(book.broken(), [(Rule::Late, 1)]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_may_write_nothing() {
    let mut book = Book::begin();
    let secret = book.secret(&book.binding().audience.clone(), 3600);
    book.ledger.status_written("one", Some("one"));
    assert_eq!(book.broken(), []);
    book.ledger.status_written("one", None);
    book.ledger.secret_written(&book.population, "one", Some("two"), None, &secret);
    assert_eq!(book.broken(), [(Rule::Fence, 2)]);
}

#[tokio::test(start_paused = true)]
async fn foreign_secrets_stay_and_what_is_granted_stays() {
    let mut book = Book::begin();
    let foreign = json!({"metadata": {"name": "x"}});
    book.write(Some(&foreign), &foreign);
    let secret = book.secret(&book.binding().audience.clone(), 3600);
    book.write(Some(&foreign), &secret);
    book.ledger.deleted(Resource::Secret, &Name { namespace: "shop".to_owned(), name: "x".to_owned() });
    assert_eq!(book.broken(), [(Rule::Foreign, 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_token_for_somebody_else_or_in_another_place_is_wrong() {
    let mut book = Book::begin();
    let other = book.secret("https://other.example.com", 3600);
    book.write(None, &other);
    let mut elsewhere = book.secret(&book.binding().audience.clone(), 3600);
    elsewhere["metadata"]["namespace"] = json!("elsewhere");
    book.write(None, &elsewhere);
    book.write(None, &json!({"metadata": elsewhere["metadata"], "data": {"id_token": "eA=="}}));
    assert_eq!(book.broken(), [(Rule::Wrong, 3)]);
}

#[tokio::test(start_paused = true)]
async fn an_older_token_over_a_newer_one_is_a_failure() {
    let mut book = Book::begin();
    book.token(5, 3605).await;
    book.token(6, 3605).await;
    assert_eq!(book.broken(), []);
    book.token(7, 3604).await;
    assert_eq!(book.broken(), [(Rule::Older, 1)]);
}
