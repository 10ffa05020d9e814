//! Argument names that a tool does not have: which of them stand for one of its arguments, and which ones clients add to
//! every call. Pure.
//!
//! A name that stands for an argument is refused: to ignore it would change what the call does, and so might taking it
//! for the argument (a timeout in milliseconds). Any other name is ignored. A name that clients or models are known to
//! add stands for nothing, however similar its letters are.

/// Names that clients and models add to any call, [`normalized`].
const CLIENT_EXTRAS: &str = "\
    agentid annotations approval chatid comment conversationid dangerouslydisablesandbox description dummy \
    explanation goal intent isdangerous justification kind label login messageid meta metadata model name note \
    notes progress purpose randomstring reason reasoning requestid requiresapproval runid safetoautorun \
    securityrisk server servername session sessionid shell spanid status summary task taskid taskprogress \
    thinking thought thoughts threadid timestamp title tool toolcallid toolname tooluseid traceid type userid \
    userprompt version withescalatedpermissions workspaceid";

/// Other names of arguments, [`normalized`].
const SYNONYMS: &[(&str, &str)] = &[
    (
        "command",
        "args argv arguments bash cmd code commandline commands executable line program run script shellcommand",
    ),
    (
        "cwd",
        "chdir currentdirectory dir directory folder path pwd wd workdir workingdir workingdirectory",
    ),
    (
        "env",
        "environ environment environmentvariables envs envvars variables vars",
    ),
    ("stdin", "input standardinput stdininput"),
    (
        "timeout_s",
        "blockuntilms deadline maxtime seconds timelimit timeout timeoutinseconds timeoutmilliseconds \
         timeoutmillis timeoutms timeoutsec timeoutseconds timeoutsecs wait waitms waits waitseconds yieldtimems",
    ),
    (
        "user",
        "asroot asuser elevated root runas sudo uid username",
    ),
    (
        "background",
        "async bg daemon detach detached inbackground isbackground runinbackground",
    ),
    ("raw", "ansi escapes rawoutput"),
    (
        "action",
        "act cmd command mode op operation subcommand verb",
    ),
    ("id", "bashid job jobid jobname pid processid shellid"),
    (
        "offset",
        "begin from fromline line lineoffset linestart skip start startline startlinenumber startlineonebased \
         startoffset viewrange",
    ),
    (
        "limit",
        "count endline endlinenumber headlimit length lineend linecount lines max maxbytes maxcount maxlines \
         maxmatches maxoutput maxoutputtokens maxresults numlines size toline viewrange",
    ),
    (
        "path",
        "absolutepath base cwd dir directory dirpath file fileabsolutepath filename filepath files folder \
         folderpath notebookpath pathname paths relativepath relativeworkspacepath root searchpath \
         targetdirectory targetfile uri url workdir workingdirectory",
    ),
    (
        "content",
        "body bytes codecontent contents data filecontent filecontents filetext newcontent newcontents newstring \
         newtext text value",
    ),
    ("encoding", "charset contentencoding"),
    ("mode", "chmod filemode permission permissions perms"),
    ("append", "appendmode isappend toappend"),
    (
        "old_string",
        "find from match old oldcontent oldstr oldtext oldvalue original pattern search searchtext target",
    ),
    (
        "new_string",
        "content new newcontent newstr newtext newvalue replace replacement replacewith text to with",
    ),
    (
        "replace_all",
        "all allowmultiple count everywhere expectedreplacements global multiple occurrences",
    ),
    (
        "pattern",
        "expression grep needle q query regex regexp search searchquery searchterm searchtext string term text",
    ),
    (
        "glob",
        "exclude excludepattern excludes ext extension extensions fileglob filepattern files filetype filter \
         globpattern globs include includepattern includes",
    ),
    (
        "context",
        "a after aftercontext around b before beforecontext c contextlines linesaround surroundinglines",
    ),
    (
        "ignore_case",
        "caseinsensitive casesensitive i icase insensitive",
    ),
    (
        "literal",
        "fixed fixedstring fixedstrings isregex isregexp plain plaintext useregex",
    ),
    ("name", "snapshot snapshotid snapshotname tag"),
    ("input", "chars content data keys stdin text"),
    ("end", "close closestdin eof"),
    ("sandbox", "handle sandboxhandle sandboxid"),
];

/// A name without case and separators: `filePath`, `file-path` and `file_path` are the same.
pub(super) fn normalized(name: &str) -> String {
    let letters = name.chars().filter(|char| char.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// The argument among `known` that `unknown` probably stands for; `given` tells which arguments the call has already.
pub(super) fn intended<'a>(
    unknown: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    given: impl Fn(&str) -> bool,
) -> Option<&'a str> {
    let unknown = normalized(unknown);
    if let Some(same) = known.clone().find(|known| normalized(known) == unknown) {
        return Some(same);
    }
    // Of two arguments with this synonym, the one that the call lacks is meant.
    let words = |name: &str| SYNONYMS.iter().find(|(argument, _)| *argument == name);
    let among = |words: &str| words.split(' ').any(|word| word == unknown);
    let other_word = |name: &&str| words(name).is_some_and(|(_, words)| among(words));
    let mut others: Vec<&str> = known.clone().filter(other_word).collect();
    others.sort_by_key(|name| given(name));
    if let Some(intended) = others.first() {
        return Some(intended);
    }
    if among(CLIENT_EXTRAS) {
        return None;
    }
    known
        .filter(|name| !given(name))
        .map(|name| {
            (
                strsim::damerau_levenshtein(&unknown, &normalized(name)),
                name,
            )
        })
        .filter(|(typos, name)| *typos <= allowed_typos(normalized(name).len().min(unknown.len())))
        .min_by_key(|(typos, _)| *typos)
        .map(|(_, name)| name)
}

/// How many letters may be wrong in a name of this length.
fn allowed_typos(length: usize) -> usize {
    match length {
        0..4 => 0,
        4..8 => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::tools::entry::tests::SHARED;

    /// The argument of the tool that a name stands for; `complete`: in a call that has all required ones.
    fn of(tool: &str, unknown: &str, complete: bool) -> Option<String> {
        let tools = crate::mcp::tools::table(&SHARED);
        let tool = tools.iter().find(|it| it.name() == tool).unwrap();
        let schema = serde_json::to_value(&tool.listing).unwrap()["inputSchema"].clone();
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let properties = schema["properties"].as_object().unwrap();
        let given = |name: &str| complete && required.iter().any(|it| it == name);
        intended(unknown, properties.keys().map(String::as_str), given).map(str::to_owned)
    }

    #[test]
    fn similar_names_and_synonyms_stand_for_arguments() {
        for (tool, unknown, expected) in [
            ("exec", "cmd", "command"),
            ("exec", "args", "command"),
            ("exec", "comand", "command"),
            ("exec", "timeout", "timeout_s"),
            ("exec", "timeout_ms", "timeout_s"),
            ("exec", "timeoutS", "timeout_s"),
            ("exec", "workdir", "cwd"),
            ("exec", "working_directory", "cwd"),
            ("exec", "is_background", "background"),
            ("exec", "run_in_background", "background"),
            ("exec", "input", "stdin"),
            ("exec", "environment", "env"),
            ("exec", "as-root", "user"),
            ("job", "job_id", "id"),
            ("job", "stdin", "input"),
            ("job", "timeout", "timeout_s"),
            ("read", "file_path", "path"),
            ("read", "filePath", "path"),
            ("read", "AbsolutePath", "path"),
            ("read", "start_line", "offset"),
            ("read", "max_lines", "limit"),
            ("write", "contents", "content"),
            ("write", "text", "content"),
            ("write", "permissions", "mode"),
            ("edit", "oldString", "old_string"),
            ("edit", "old_str", "old_string"),
            ("edit", "newText", "new_string"),
            ("edit", "replaceAll", "replace_all"),
            ("edit", "file", "path"),
            ("search", "query", "pattern"),
            ("search", "regex", "pattern"),
            ("search", "glob_pattern", "glob"),
            ("search", "case_insensitive", "ignore_case"),
            ("search", "-i", "ignore_case"),
            ("search", "-C", "context"),
            ("search", "dir", "path"),
            ("search", "max_results", "limit"),
            ("snapshot", "snapshot", "name"),
            ("snapshot", "operation", "action"),
        ] {
            let found = of(tool, unknown, false);
            assert_eq!(found.as_deref(), Some(expected), "{tool}: {unknown}");
        }
    }

    #[test]
    fn names_that_clients_add_stand_for_nothing() {
        const CLIENTS: [&str; 46] = [
            "toolCallId",
            "tool_call_id",
            "sessionId",
            "session_id",
            "description",
            "_meta",
            "explanation",
            "reasoning",
            "task_progress",
            "requires_approval",
            "SafeToAutoRun",
            "safe_to_auto_run",
            "security_risk",
            "random_string",
            "dummy",
            "title",
            "summary",
            "thought",
            "thoughts",
            "toolSummary",
            "toolAction",
            "waitForPreviousTools",
            "requestId",
            "conversationId",
            "messageId",
            "userId",
            "userPrompt",
            "traceId",
            "model",
            "metadata",
            "timestamp",
            "type",
            "kind",
            "dangerouslyDisableSandbox",
            "justification",
            "with_escalated_permissions",
            "sandbox_permissions",
            "chatInput",
            "goal",
            "intent",
            "reason",
            "server",
            "tool",
            "workspaceId",
            "task_id",
            "thread_id",
        ];
        for tool in [
            "exec", "job", "read", "write", "edit", "search", "snapshot", "reboot",
        ] {
            for name in CLIENTS {
                for complete in [false, true] {
                    assert_eq!(of(tool, name, complete), None, "{tool}: {name}");
                }
            }
        }
        for (tool, name) in [
            ("exec", "id"),
            ("read", "timeout"),
            ("reboot", "force"),
            ("search", "multiline"),
        ] {
            assert_eq!(of(tool, name, true), None, "{tool}: {name}");
        }
        // `context` could be a typing error of `content`, but the call has that one.
        assert_eq!(of("write", "context", true), None);
    }

    #[test]
    fn the_tables_are_normalized() {
        let lists = SYNONYMS.iter().map(|(_, words)| *words);
        for word in lists
            .chain([CLIENT_EXTRAS])
            .flat_map(|words| words.split(' '))
        {
            assert!(!word.is_empty() && normalized(word) == word, "{word:?}");
        }
    }
}
