//! The `snowglobe` program: the only place that prints errors.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match snowglobe::cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!(
                "snowglobe: failed to {}",
                snowglobe::describe(error.as_ref())
            );
            ExitCode::from(125)
        }
    }
}
