//! Groth16 parameters: where they are, what is wrong with them, and how test sizes get them.
pub mod upstream;
