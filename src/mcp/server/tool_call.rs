//! A call of a tool: the sandbox it acts on, the confirmation before it, the notes after it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::{CallToolRequestParams, CallToolResult, JsonObject};
use rmcp::service::RequestContext;
use serde_json::Value;

use super::{Server, Told};
use crate::config::{Config, Confirm};
use crate::fleet::{Lease, Lost};
use crate::mcp::call::Call;
use crate::mcp::confirm::Decision;
use crate::mcp::facts::{Facts, Workspace};
use crate::mcp::network::{self, add_listeners};
use crate::mcp::notes::Notes;
use crate::mcp::permission::Subject;
use crate::mcp::protect;
use crate::mcp::refusal::{HANDLE, Refusal};
use crate::mcp::tools::{Context, Entry};
use crate::sandbox::{Sandbox, weaker_fences};
use crate::text;

/// How long a result waits for the guest to say on which ports its programs listen.
const LISTENERS: Duration = Duration::from_secs(1);

impl Server {
    /// Calls a tool with checked arguments.
    pub(super) async fn call(
        &self,
        tool: &Entry,
        mut arguments: JsonObject,
        session: bool,
        call: Call,
    ) -> Result<CallToolResult, Refusal> {
        let handle = self.take_handle(&mut arguments)?;
        let lease = self.selector.lease(handle.as_deref(), session).await?;
        let call = call.with_handle(lease.handle_for_addresses().map(str::to_owned));
        let context = Context {
            sandbox: Arc::clone(&lease.sandbox),
            facts: self.selector.facts(),
            call: &call,
        };
        let sandbox = &lease.sandbox;
        let told = self.told(sandbox, session, !tool.is_read_only()).await;
        let acts = [
            (Subject::Network, tool.runs_commands()),
            (Subject::Workspace, !tool.is_read_only()),
        ];
        let once = acts.map(|(of, acts)| acts && self.permission.has_once(of));
        let result = tool.run(arguments, context).await;
        let mut notes = self.session_notes(&lease, session);
        for ((of, acts), once) in acts.into_iter().zip(once) {
            if once {
                self.permission.take_back(of, sandbox).await;
            }
            if acts {
                self.tell_refusals(of, sandbox, &told, &call, &mut notes)
                    .await;
            }
        }
        if tool.runs_commands() && session {
            self.tell_ports(sandbox, &mut notes).await;
        }
        let result = notes.append_to(result.unwrap_or_else(Refusal::into_result));
        Ok(match lease.new_handle() {
            Some(handle) => with_new_handle(result, handle),
            None => result,
        })
    }

    /// Asks a person to confirm a call that can't be undone, where that is configured.
    pub(super) async fn confirm(
        &self,
        tool: &Entry,
        request: &CallToolRequestParams,
        arguments: &JsonObject,
        context: &RequestContext<RoleServer>,
        call: &Call,
    ) -> Result<Decision, Refusal> {
        let confirmation = &self.shared.confirmation;
        if confirmation.mode(tool.reach()) == Confirm::Never {
            return Ok(Decision::Proceed);
        }
        let mut arguments = arguments.clone();
        let handle = self.take_handle(&mut arguments)?;
        let Some(question) = tool.question(arguments, self.selector.facts())? else {
            return Ok(Decision::Proceed);
        };
        let mut answered = None;
        let asked = (question.as_str(), tool.reach());
        let decision = confirmation.ask(asked, request, context, call, &mut answered);
        let decision = decision.await;
        // A sandbox that is not there yet has no timeline, and nothing to lose.
        if let (Some(answer), Some(sandbox)) = (answered, self.selector.peek(handle.as_deref())) {
            sandbox.timeline().asked(&question, answer, None);
        }
        decision
    }

    /// Removes the sandbox's handle from the arguments, where calls may have one.
    fn take_handle(&self, arguments: &mut JsonObject) -> Result<Option<String>, Refusal> {
        if !self.selector.has_fleet() {
            return Ok(None);
        }
        match arguments.remove(HANDLE) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(handle)) if handle.is_empty() => Ok(None),
            Some(Value::String(handle)) => Ok(Some(handle)),
            Some(_) => Err(Refusal::new(format!(
                "`{HANDLE}` must be a string, as an earlier result gave it"
            ))),
        }
    }

    /// From where on a result tells of refusals: where the session's last one ended, so that those of jobs are told, too.
    /// `changes`: the call may change files.
    async fn told(&self, sandbox: &Sandbox, session: bool, changes: bool) -> Told {
        let known = session.then(|| self.lock_told().clone()).flatten();
        let id = sandbox.instance().id.as_str();
        let mut told = known.filter(|told| told.sandbox == id);
        if changes && told.as_ref().is_none_or(|told| told.changes.is_none()) {
            // What another client was refused before is not for this one.
            let refusals = sandbox.refused_changes(None).await;
            let told = told.get_or_insert_with(|| Told::new(sandbox));
            told.changes = refusals.ok().map(|refusals| refusals.next);
        }
        let told = told.unwrap_or_else(|| Told::new(sandbox));
        if session {
            *self.lock_told() = Some(told.clone());
        }
        told
    }

    fn lock_told(&self) -> MutexGuard<'_, Option<Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of refusals, and asks a person about them where the client is the user's own: a client of a server of many
    /// sandboxes does not change what its owner opens.
    async fn tell_refusals(
        &self,
        of: Subject,
        sandbox: &Arc<Sandbox>,
        from: &Told,
        call: &Call,
        notes: &mut Notes,
    ) {
        let asks = !self.selector.has_fleet();
        let note = match of {
            Subject::Network => {
                let network = sandbox.network();
                let refusals = network.refusals_since(from.connections);
                self.set_told(sandbox, |told| told.connections = refusals.next);
                let rules = network.rules();
                network::add_refusals(&refusals, &rules, notes);
                let wish = |declined: &dyn Fn(&str) -> bool| {
                    asks.then(|| network::wish(&refusals, &rules, declined))?
                };
                self.permission.ask(of, wish, sandbox, call).await
            }
            Subject::Workspace => {
                let refusals = match sandbox.refused_changes(from.changes).await {
                    Ok(refusals) => refusals,
                    // The result says what became of the machine.
                    Err(error) => {
                        tracing::debug!("failed to {}", crate::describe(&error));
                        return;
                    }
                };
                self.set_told(sandbox, |told| told.changes = Some(refusals.next));
                protect::add_refusals(&refusals, notes);
                let wish = |declined: &dyn Fn(&str) -> bool| {
                    asks.then(|| protect::wish(&refusals, declined))?
                };
                self.permission.ask(of, wish, sandbox, call).await
            }
        };
        if let Some(note) = note {
            notes.add(note);
        }
    }

    fn set_told(&self, sandbox: &Sandbox, set: impl FnOnce(&mut Told)) {
        let id = sandbox.instance().id.as_str();
        if let Some(told) = &mut *self.lock_told()
            && told.sandbox == id
        {
            set(told);
        }
    }

    /// Tells of ports on which programs of the guest have begun to listen. A guest that does not say is not waited for.
    async fn tell_ports(&self, sandbox: &Sandbox, notes: &mut Notes) {
        let asked = tokio::time::timeout(LISTENERS, sandbox.listeners()).await;
        let Ok(Ok(listeners)) = asked else {
            return;
        };
        let told = self.told_ports.lock();
        let mut told = told.unwrap_or_else(PoisonError::into_inner);
        let id = sandbox.instance().id.as_str();
        if told.0 != id {
            *told = (id.to_owned(), BTreeSet::new());
        }
        // One that was closed is told of again when it is back.
        told.1.retain(|port| listeners.contains_key(port));
        let new: Vec<_> = listeners
            .iter()
            .filter(|(port, _)| told.1.insert(**port))
            .collect();
        add_listeners(&new, notes);
    }

    /// Notes that only some results of a session get: what was lost, what of the project's file is ignored, where the
    /// repository is, which fences are missing.
    fn session_notes(&self, lease: &Lease, session: bool) -> Notes {
        let mut notes = Notes::default();
        if let Some(loss) = lease.take_loss() {
            notes.add(loss_note(
                loss,
                self.selector.config(),
                self.selector.facts(),
            ));
        }
        // A client without a session is told by the first result of each sandbox.
        let by_sandbox = self.selector.has_fleet() && !session;
        let tell_ignored = match by_sandbox {
            true => lease.new_handle().is_some(),
            false => !self.told_ignored.swap(true, Ordering::Relaxed),
        };
        let ignored = self.selector.config().ignored.as_ref();
        if let Some(ignored) = ignored.filter(|_| tell_ignored) {
            notes.add(ignored.to_string());
        }
        if tell_ignored {
            let workspace = &self.selector.config().sandbox.workspace;
            notes.add_all(workspace.repository().map(|repository| {
                let place = repository.dir.path().display();
                format!(
                    "the git repository of /workspace is {place} on the host, and is shared, too"
                )
            }));
            notes.add_all(workspace.git_trouble());
            notes.add_all(workspace.copied().map(|dir| {
                let place = dir.path().display();
                format!("/workspace is a copy of {place}; the user reviews and applies what changes in it")
            }));
        }
        notes.add_all(lease.sandbox.take_notes());
        let missing = lease.sandbox.lacks();
        let tell_missing = match by_sandbox {
            true => lease.new_handle().is_some(),
            false => !missing.is_empty() && !self.told_missing_fences.swap(true, Ordering::Relaxed),
        };
        if tell_missing && !missing.is_empty() {
            notes.add(weaker_fences(&missing));
        }
        notes
    }
}

/// Adds the handle of a new sandbox to both forms of a result.
fn with_new_handle(mut result: CallToolResult, handle: &str) -> CallToolResult {
    if let Some(Value::Object(structured)) = &mut result.structured_content {
        structured.insert(HANDLE.to_owned(), handle.into());
    }
    let mut notes = Notes::default();
    notes.add(format!(
        "new sandbox; pass `{HANDLE}`: \"{handle}\" in every further call, or you get another one"
    ));
    notes.append_to(result)
}

/// The note of the first call after a stopped sandbox was replaced.
fn loss_note((lost, idle): (Lost, Duration), config: &Config, facts: &Facts) -> String {
    let system = match &config.sandbox.snapshot {
        Some(name) => format!("the snapshot `{name}`"),
        None => format!("the image `{}`", config.sandbox.image),
    };
    let gone = match facts.workspace {
        Workspace::Shared | Workspace::Copied => "outside /workspace",
        Workspace::OwnDisk => "in it, /workspace included",
    };
    let snapshots = match lost {
        Lost::System => "saved snapshots are as before",
        Lost::All => "so are saved snapshots",
    };
    format!(
        "the sandbox was stopped after {} without a call or a running job, and this is a new one: its system is \
         as {system} has it; what was installed or changed {gone}, and jobs with their output, are gone; {snapshots}",
        text::duration(idle)
    )
}
