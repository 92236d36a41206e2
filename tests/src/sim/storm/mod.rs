//! Storms: a whole farm with several miners, sites and workers, and everything that can befall it drawn
//! from one seed.
//!
//! Miners, agents and workers are the real drivers. While a storm lasts, processes die at any step, hang
//! and lose their leases, ways are cut, messages are lost, late and repeated. Then it is calm, and within
//! a bound of virtual time every sector must have come to its end. What must always hold is checked at
//! every write, publish, acknowledgement, push and phase (`monitor.rs`); what must hold in the end, by
//! `settled.rs`. The same seed gives the same trace.

mod etcd;
mod farm;
mod many;
mod monitor;
mod plan;
mod planted;
mod points;
mod run;
mod runner;
mod settled;
mod struck;
mod witness;

pub use many::{Summary, Watching, run_many};
pub use plan::{Liar, Shape, StormPlan, Strike, Way, Who};
pub use planted::Planted;
pub use points::POINTS;
pub use run::{Outcome, Reached, Violation, run};
