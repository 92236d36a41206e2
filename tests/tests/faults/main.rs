//! What is done to whole farms of real processes on real servers, and what must hold afterwards. One program,
//! so that its farms, which mostly wait, stand beside each other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash_points;
mod disk;
mod matrix;
mod real;
mod wan;
