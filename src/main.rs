//! The `snowglobe` program: the only place that prints errors.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match snowglobe::cli::run() {
        Ok(code) => code,
        Err(error) => {
            let error = snowglobe::describe(error.as_ref());
            snowglobe::shown::say(format_args!("failed to {error}"));
            ExitCode::from(125)
        }
    }
}
