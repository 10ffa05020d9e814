//! The rules of the shares, and what these refused: questions to all of them.

use snowglobe_runner::VmRequest;

use super::question::Question;
use super::{End, Vm};
use crate::share::STAGE as SHARE_STAGE;

impl Vm {
    /// Passes a question on to all shares.
    pub(super) fn ask_shares(&mut self, request: &VmRequest) {
        let mut question = Question::new(request, self.shares.len());
        for share in &self.shares {
            if let Err(error) = share.control.ask(request) {
                question.add(Err(error.to_string()));
            }
        }
        match question.is_answered() {
            true => question.finish(),
            false => self.questions.push(question),
        }
    }

    /// Takes the answers of the shares; one that is no answer ends the VM, since nothing tells what else is wrong there.
    pub(super) fn handle_answers(&mut self) -> Result<(), End> {
        for share in &mut self.shares {
            let answers = share.control.answers().map_err(|error| {
                let why = format!("the server of the share `{}`: {error}", share.tag);
                End::Failed(SHARE_STAGE, why)
            })?;
            for (id, answer) in answers {
                if let Some(question) = self.questions.iter_mut().find(|one| one.id() == id) {
                    question.add(answer);
                }
            }
        }
        let (answered, open): (Vec<_>, Vec<_>) = std::mem::take(&mut self.questions)
            .into_iter()
            .partition(|question| question.is_answered());
        answered.into_iter().for_each(Question::finish);
        self.questions = open;
        Ok(())
    }
}
