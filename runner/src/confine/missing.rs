//! How a process of the runner's reports a fence that does not hold: one line on standard error, `ROLE: without FENCE`.

use crate::role;

const WITHOUT: &str = ": without ";

/// Reports that a fence does not hold.
pub(crate) fn report(role: &str, fence: &str) {
    complain!("{role}{WITHOUT}{fence}");
}

/// The fence in such a report; `None` for any other line. Pure.
pub(crate) fn reported(line: &str) -> Option<&str> {
    let (role, fence) = line.split_once(WITHOUT)?;
    matches!(role, role::SHARE | role::KRUN).then_some(fence)
}
