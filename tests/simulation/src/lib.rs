//! A fleet of bindings, models of the API server and of Google, and bad days in virtual time; never part of the product.
//!
//! ```text
//! seed ─▶ faults (what goes wrong, when) ─┐          ┌─ api_server (model) ─┐
//!      └▶ population (the fleet) ─────────┴─▶ run ─▶ replica (the product) ─┤─▶ ledger ─▶ rules, report
//!                                                    └─ google (model) ─────┘
//! ```
//!
//! The whole controller runs, on one thread whose time is tokio's paused clock. What can be had when is known to the models alone
//! ([`availability`]), and so is what was written: the [`ledger`] takes nobody's word.

pub mod api_server;
pub mod availability;
pub mod clock;
pub mod costs;
pub mod fairness;
pub mod faults;
pub mod google;
pub mod ledger;
pub mod options;
pub mod population;
pub mod random;
pub mod replica;
pub mod report;
pub mod run;
pub mod seeds;
pub mod world;
