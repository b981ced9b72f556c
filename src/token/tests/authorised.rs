//! Who may use the operator's identity is asked last, when there is nothing left to wait for.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{future::join_all, poll};

use super::*;

fn refused() -> Problem {
    Problem::on_change(Reason::NotGranted, "no grant allows it".to_owned())
}

fn sources() -> [(Source, Endpoint); 3] {
    let service_account = ServiceAccountEmail::parse(CALLER).unwrap();
    [
        (Source::MetadataServer, Endpoint::MetadataIdentity),
        (impersonation(&[]), Endpoint::GenerateIdToken),
        (Source::SignedJwt { service_account }, Endpoint::SignJwt),
    ]
}

/// The operator may do whatever is asked of it.
async fn bench(http: &Http) -> Bench {
    let options = granted().allow(&format!("serviceAccount:{OPERATOR}"), Role::TokenCreator, CALLER);
    let google = Google::start(options).await.unwrap();
    let endpoints = endpoints(&google);
    let operator = Operator::new(http, &endpoints, Sources::default());
    Bench { minter: Minter::new(http, &endpoints, operator), google }
}

/// No longer allowed once `is_gone`.
async fn mint_until(
    bench: &Bench,
    source: &Source,
    is_gone: impl Fn() -> bool + Sync,
) -> Result<Minted, Error> {
    let audience = Audience::parse(AUDIENCE).unwrap();
    let authorise = || std::future::ready(if is_gone() { Err(refused()) } else { Ok(()) });
    bench.minter.mint(source, &audience, &NoCredentials, None, authorise).await
}

fn assert_refused(result: Result<Minted, Error>) {
    let problem = Problem::from(result.unwrap_err());
    assert_eq!(problem, refused());
}

#[tokio::test]
async fn a_grant_that_goes_while_a_mint_waits_for_its_turn_lets_no_request_out() {
    let http = Http::new().unwrap();
    let bench = bench(&http).await;
    for (source, endpoint) in sources() {
        bench.mint(&source).await.unwrap();
        let before = bench.google.count(endpoint);
        let turns = join_all((0..64).map(|_| http.turn())).await;
        let gone = AtomicBool::new(false);
        let mut mint = std::pin::pin!(mint_until(&bench, &source, || gone.load(Ordering::SeqCst)));
        assert!(poll!(&mut mint).is_pending(), "{endpoint:?}: all turns are taken");
        gone.store(true, Ordering::SeqCst);
        drop(turns);
        assert_refused(mint.await);
        assert_eq!(bench.google.count(endpoint), before, "{endpoint:?}");
    }
}

#[tokio::test]
async fn a_grant_that_goes_while_the_operators_access_token_is_fetched_lets_no_request_out() {
    for (source, endpoint) in sources().into_iter().skip(1) {
        let bench = bench(&Http::new().unwrap()).await;
        assert_refused(mint_until(&bench, &source, || bench.google.count(Endpoint::MetadataToken) > 0).await);
        assert_eq!(bench.google.count(Endpoint::MetadataToken), 1);
        assert_eq!(bench.google.count(endpoint), 0, "{endpoint:?}");
    }
}

#[tokio::test]
async fn a_grant_that_goes_before_a_refused_access_token_is_replaced_lets_no_second_request_out() {
    let bench = bench(&Http::new().unwrap()).await;
    bench.google.set_fault_times(Endpoint::MetadataToken, Fault::ExpiredToken, 1);
    let is_gone = || bench.google.count(Endpoint::MetadataToken) > 1;
    assert_refused(mint_until(&bench, &impersonation(&[]), is_gone).await);
    assert_eq!(bench.google.count(Endpoint::GenerateIdToken), 1);
}
