//! A question of the parent that all shares answer.

use snowglobe_runner::protection::{Made, Refusal};
use snowglobe_runner::{Action, Answer, VmRequest};

use crate::talk::reply;

/// A question, and what was answered so far.
#[derive(Debug)]
pub(super) struct Question {
    id: u64,
    /// How many shares have not answered.
    open: usize,
    takes: bool,
    made: Vec<Made>,
    more: u64,
    refused: Vec<Refusal>,
    lost: u64,
    failed: Option<String>,
}

impl Question {
    /// A question that so many shares are asked.
    pub(super) fn new(request: &VmRequest, open: usize) -> Self {
        Self {
            id: request.id,
            open,
            takes: matches!(request.action, Action::TakeChanges),
            made: Vec::new(),
            more: 0,
            refused: Vec::new(),
            lost: 0,
            failed: None,
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Whether all shares have answered.
    pub(super) fn is_answered(&self) -> bool {
        self.open == 0
    }

    /// Adds the answer of a share.
    pub(super) fn add(&mut self, answer: Result<Answer, String>) {
        self.open = self.open.saturating_sub(1);
        match answer {
            Ok(Answer::Changes {
                made,
                more,
                refused,
                lost,
            }) => {
                self.made.extend(made);
                self.more = self.more.saturating_add(more);
                self.refused.extend(refused);
                self.lost = self.lost.saturating_add(lost);
            }
            Ok(_) => {}
            Err(why) => self.failed = Some(why),
        }
    }

    /// Answers the parent.
    pub(super) fn finish(self) {
        let answer = match (self.failed, self.takes) {
            (Some(why), _) => Err(format!("ask the shares: {why}")),
            (None, false) => Ok(Answer::Done),
            (None, true) => Ok(Answer::Changes {
                made: self.made,
                more: self.more,
                refused: self.refused,
                lost: self.lost,
            }),
        };
        reply(self.id, answer);
    }
}
