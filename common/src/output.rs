//! Printing that outlives its reader: [`outln!`](crate::outln) for data, [`errln!`](crate::errln) for
//! the rest.
//!
//! The standard macros panic when the other end of the pipe has gone, as in `sectors list | head -1`.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write as _};

use crate::exit::ExitCode;

/// Writes data to stdout. Where nobody reads it any more, the process ends as if it had all been read.
pub fn out(text: Arguments<'_>) {
    let mut stdout = io::stdout().lock();
    let Err(error) = stdout.write_fmt(text) else { return };
    drop(stdout);
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(ExitCode::Ok as i32);
    }
    err(format_args!("error: cannot write to stdout: {error}\n"));
    std::process::exit(ExitCode::Failure as i32);
}

/// Writes to stderr, if anybody reads it.
pub fn err(text: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// Prints data to stdout; like `print!`, and safe on a closed pipe.
#[macro_export]
macro_rules! out {
    ($($text:tt)*) => { $crate::output::out(format_args!($($text)*)) };
}

/// Prints a line of data to stdout; like `println!`, and safe on a closed pipe.
#[macro_export]
macro_rules! outln {
    ($($text:tt)*) => { $crate::output::out(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints a line to stderr; like `eprintln!`, and safe on a closed pipe.
#[macro_export]
macro_rules! errln {
    ($($text:tt)*) => { $crate::output::err(format_args!("{}\n", format_args!($($text)*))) };
}
