//! The `snowglobe` program: the only place that prints errors.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let done = snowglobe::cli::run().and_then(|code| {
        snowglobe::shown::finish()?;
        Ok(code)
    });
    done.unwrap_or_else(|error| {
        let (status, message) = snowglobe::cli::ending(&error);
        if let Some(message) = message {
            snowglobe::shown::complain(format_args!("{message}"));
        }
        ExitCode::from(status)
    })
}
