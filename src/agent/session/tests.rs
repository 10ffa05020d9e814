use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use proptest::prelude::*;
use serde_json::json;

use super::super::message::{
    Assistant, Call, CallResult, Content, Message, PlanItem, PlanStatus, Stop, Usage, User,
};
use super::entry::{Entry, FORMAT, First, Header, Place as EntryPlace, sealed};
use super::file::Session;
use super::read::Contents;
use super::{Body, EntryId, SessionError, kept, remove};

fn user(text: &str) -> Body {
    Body::Message(Message::User(User::text(text.to_owned())))
}

fn answer(text: &str, calls: Vec<Call>) -> Body {
    Body::Message(Message::Assistant(Assistant {
        model: "provider/model".to_owned(),
        text: text.to_owned(),
        reasoning: String::new(),
        stop: if calls.is_empty() {
            Stop::Done
        } else {
            Stop::Calls
        },
        calls,
        blocks: json!(null),
        usage: Usage::default(),
    }))
}

fn call(id: &str) -> Call {
    Call {
        id: id.to_owned(),
        name: "exec".to_owned(),
        arguments: json!({"command": "true", "sum": "00000000"}),
    }
}

fn result(id: &str, text: &str) -> CallResult {
    CallResult::text(&call(id), text, false)
}

struct Place {
    data: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        Self { data }
    }

    fn session(&self) -> Session {
        Session::create(self.data.path(), Path::new("/home/me/project"))
    }

    /// A session with these entries, closed again.
    fn written(&self, bodies: &[Body]) -> PathBuf {
        let mut session = self.session();
        for body in bodies {
            session.append(body.clone()).unwrap();
        }
        session.path().to_owned()
    }
}

fn bodies(session: &Session) -> Vec<Body> {
    session
        .branch()
        .into_iter()
        .map(|(_, body)| body.clone())
        .collect()
}

fn body() -> impl Strategy<Value = Body> {
    let text = prop_oneof![
        "[ -~\n\"\\\\é{},:]{0,40}",
        Just(",\"sum\":\"00000000\"}".to_owned())
    ];
    prop_oneof![
        4 => text.clone().prop_map(|text| user(&text)),
        3 => text.clone().prop_map(|text| answer(&text, Vec::new())),
        2 => text.clone().prop_map(|text| answer(&text, vec![call("a"), call("b")])),
        1 => Just(Body::Partial(result("b", "partial"))),
        1 => Just(Body::Message(Message::Results(vec![result("b", "2"), result("a", "1")]))),
        1 => text.clone().prop_map(Body::Summary),
        1 => text.clone().prop_map(Body::Model),
        1 => Just(Body::Plan(vec![PlanItem { step: "x".into(), status: PlanStatus::Active }])),
        1 => text.prop_map(Body::Snapshot),
    ]
}

/// An entry, or a step back by so many.
fn step() -> impl Strategy<Value = Result<Body, usize>> {
    prop_oneof![5 => body().prop_map(Ok), 1 => (0_usize..12).prop_map(Err)]
}

/// Appends the steps, and gives the branch after each as a model has it.
fn play(session: &mut Session, steps: &[Result<Body, usize>]) -> Vec<Vec<Body>> {
    // Each entry with its branch.
    let mut all: Vec<(EntryId, Vec<Body>)> = Vec::new();
    for step in steps {
        let (body, mut branch) = match step {
            Ok(body) => (body.clone(), all.last().map(|(_, branch)| branch.clone())),
            Err(back) if !all.is_empty() => {
                let (to, branch) = &all[all.len() - 1 - back % all.len()];
                let parent = branch[..branch.len() - 1].to_vec();
                (Body::Rewind(*to), Some(parent))
            }
            Err(_) => continue,
        };
        let id = session.append(body.clone()).unwrap();
        let mut branch = branch.take().unwrap_or_default();
        branch.push(body);
        assert_eq!(bodies(session), branch);
        all.push((id, branch));
    }
    all.into_iter().map(|(_, branch)| branch).collect()
}

/// Whether each call has a result, and each result a call.
fn is_sound(messages: &[(EntryId, Message)]) -> bool {
    let mut open: Option<Vec<String>> = None;
    for (_, message) in messages {
        match (message, open.take()) {
            (Message::Results(results), Some(calls))
                if results.iter().map(|result| &result.id).eq(&calls) => {}
            (Message::Results(_), _) | (_, Some(_)) => return false,
            (Message::Assistant(answer), None) if !answer.calls.is_empty() => {
                open = Some(answer.calls.iter().map(|call| call.id.clone()).collect());
            }
            _ => {}
        }
    }
    open.is_none()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn appends_and_steps_back_agree_with_a_model(steps in prop::collection::vec(step(), 1..25)) {
        let place = Place::new();
        let mut session = place.session();
        let branches = play(&mut session, &steps);
        prop_assert!(is_sound(&session.messages()));
        let (path, messages) = (session.path().to_owned(), session.messages());
        drop(session);
        if let Some(branch) = branches.last() {
            let (session, notice) = Session::open(&path).unwrap();
            prop_assert_eq!(notice, None);
            prop_assert_eq!(&bodies(&session), branch);
            prop_assert_eq!(session.messages(), messages);
            let (list, unreadable) = Session::list(place.data.path(), Path::new("/home/me/project"));
            prop_assert_eq!(unreadable.len(), 0);
            let said = branch.iter().filter(|body| matches!(body, Body::Message(_))).count();
            prop_assert_eq!(list.first().map_or(0, |summary| summary.messages), said);
        }
    }

    #[test]
    fn every_beginning_of_a_file_is_a_session_up_to_there(
        steps in prop::collection::vec(step(), 1..8), cut in any::<prop::sample::Index>(), garbage in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let place = Place::new();
        let mut session = place.session();
        let branches = play(&mut session, &steps);
        prop_assume!(!branches.is_empty());
        let path = session.path().to_owned();
        drop(session);
        let whole = fs::read(&path).unwrap();
        let cut = cut.index(whole.len() + 1);
        let torn = [&whole[..cut], &garbage].concat();
        fs::write(&path, &torn).unwrap();
        let (mut session, notice) = Session::open(&path).unwrap();
        // The garbage may begin as what was cut did. The first line is the header.
        let same = torn.iter().zip(&whole).take_while(|(left, right)| left == right);
        let lines = same.filter(|(byte, _)| **byte == b'\n').count();
        let some = lines.saturating_sub(1);
        let expected = some.checked_sub(1).map(|last| branches[last].clone()).unwrap_or_default();
        let found = bodies(&session);
        prop_assert!(found == expected, "{found:?} is not {expected:?}");
        let left = fs::read(&path).unwrap();
        prop_assert_eq!(Contents::scan(&left[..]).unwrap().sound_end, left.len() as u64);
        let damaged = path.with_extension("damaged");
        prop_assert_eq!(notice.is_some(), damaged.exists());
        // It goes on.
        session.append(user("more")).unwrap();
        let branch = bodies(&session);
        drop(session);
        let (session, notice) = Session::open(&path).unwrap();
        prop_assert_eq!((bodies(&session), notice), (branch, None));
    }

    #[test]
    fn a_flipped_byte_costs_its_entry_and_what_comes_after_it(
        steps in prop::collection::vec(step(), 1..8), at in any::<prop::sample::Index>(), flip in 1_u8..,
    ) {
        let place = Place::new();
        let mut session = place.session();
        let branches = play(&mut session, &steps);
        prop_assume!(!branches.is_empty());
        let path = session.path().to_owned();
        drop(session);
        let whole = fs::read(&path).unwrap();
        let at = at.index(whole.len());
        let hit = whole[..at].iter().filter(|byte| **byte == b'\n').count();
        let mut bytes = whole.clone();
        bytes[at] ^= flip;
        let sound = Contents::scan(&whole[..]).unwrap().entries;
        let left = Contents::scan(&bytes[..]).unwrap().entries;
        // Line 0 is the header, without which the entries count. Without its end, the first entry is damaged, too.
        let expected: &[Entry] = match (hit, whole[at]) {
            (0, b'\n') => &[],
            (0, _) => &sound,
            (line, _) => &sound[..line - 1],
        };
        prop_assert!(left == expected, "{} of {} are left", left.len(), sound.len());
        fs::write(&path, &bytes).unwrap();
        let (session, notice) = Session::open(&path).unwrap();
        prop_assert_eq!(notice.is_some(), left.len() < sound.len());
        prop_assert!(is_sound(&session.messages()));
        drop(session);
        Session::list(place.data.path(), Path::new("/home/me/project"));
    }

    #[test]
    fn no_file_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let place = Place::new();
        let path = place.written(&[user("x")]);
        fs::write(&path, &bytes).unwrap();
        Session::list(place.data.path(), Path::new("/home/me/project"));
        let (mut session, notice) = Session::open(&path).unwrap();
        prop_assert_eq!((session.branch().len(), notice.is_some()), (0, !bytes.is_empty()));
        session.append(user("y")).unwrap();
        drop(session);
        let (session, notice) = Session::open(&path).unwrap();
        prop_assert_eq!((bodies(&session), notice), (vec![user("y")], None));
    }
}

#[test]
fn an_interrupted_call_has_a_result_that_says_so() {
    let place = Place::new();
    let path = place.written(&[
        user("go"),
        answer("", vec![call("a"), call("b"), call("a")]),
        Body::Partial(result("a", "done")),
    ]);
    let (mut session, _) = Session::open(&path).unwrap();
    let messages = session.messages();
    let Message::Results(results) = &messages[2].1 else {
        panic!("{messages:?}");
    };
    assert_eq!(results[0], result("a", "done"));
    for lost in &results[1..] {
        let Content::Text(text) = &lost.content[0] else {
            panic!("{lost:?}");
        };
        assert!(lost.is_error && text.contains("interrupted"), "{text}");
    }
    // The same once the conversation went on, and after a summary.
    session.append(user("go on")).unwrap();
    assert_eq!(session.messages()[2], messages[2]);
    session
        .append(Body::Summary("all of it".to_owned()))
        .unwrap();
    session.append(user("now")).unwrap();
    let messages = session.messages();
    assert_eq!(messages.len(), 2);
    assert!(matches!(&messages[0].1, Message::User(user) if user.text.ends_with("all of it")));
}

#[test]
fn a_session_has_one_process_and_a_removed_one_takes_nothing() {
    let place = Place::new();
    let mut session = place.session();
    assert!(!session.path().exists());
    session.append(user("hello")).unwrap();
    let path = session.path().to_owned();
    let error = Session::open(&path).unwrap_err();
    assert!(matches!(error, SessionError::Busy(_)), "{error}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        path.parent()
            .unwrap()
            .metadata()
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
    fs::remove_file(&path).unwrap();
    let error = session.append(user("more")).unwrap_err();
    assert!(matches!(error, SessionError::Removed(_)), "{error}");
    drop(session);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn a_later_format_is_refused_and_a_step_to_nowhere_too() {
    let place = Place::new();
    let path = place.written(&[user("hello")]);
    let mut session = Header::new(None);
    session.format = FORMAT + 1;
    session.program = "9.0.0".to_owned();
    let line = sealed(&First { session }).unwrap();
    fs::write(&path, format!("{line}something new\n")).unwrap();
    let error = Session::open(&path).unwrap_err().to_string();
    assert!(
        error.contains("format 2, written by snowglobe 9.0.0"),
        "{error}"
    );
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("{line}something new\n")
    );
    let (list, unreadable) = Session::list(place.data.path(), Path::new("/home/me/project"));
    assert!(
        list.is_empty() && unreadable[0].contains("9.0.0"),
        "{unreadable:?}"
    );
    let error = place
        .session()
        .append(Body::Rewind(EntryId(7)))
        .unwrap_err();
    assert!(matches!(error, SessionError::NoEntry(_)), "{error}");
}

#[test]
fn sessions_are_listed_from_their_ends() {
    let place = Place::new();
    let project = Path::new("/home/me/project");
    assert_eq!(
        Session::list(place.data.path(), project),
        (Vec::new(), Vec::new())
    );
    place.written(&[Body::Model("a/b".to_owned())]);
    let first = place.written(&[
        Body::Model("a/b".to_owned()),
        user(&format!("first  \n thing {}", "x".repeat(300_000))),
    ]);
    let second = place.written(&[
        user("second"),
        answer(&"y".repeat(100_000), Vec::new()),
        user("more"),
    ]);
    // The last line is damaged.
    let mut torn = fs::read(&second).unwrap();
    torn.extend([0; 5000]);
    fs::write(&second, torn).unwrap();
    fs::write(first.with_file_name("broken.jsonl"), "no session\n").unwrap();
    let (list, unreadable) = Session::list(place.data.path(), project);
    let seen: Vec<_> = list
        .iter()
        .map(|one| (one.title.chars().take(13).collect::<String>(), one.messages))
        .collect();
    assert_eq!(
        seen,
        [("second".to_owned(), 3), ("first thing x".to_owned(), 1)]
    );
    assert!(list[1].title.len() <= 80 && list[1].path == first);
    assert!(
        unreadable.len() == 1 && unreadable[0].contains("broken.jsonl"),
        "{unreadable:?}"
    );
}

#[test]
fn what_is_kept_of_each_project_is_known_and_removed_unless_it_is_open() {
    let data = tempfile::tempdir().unwrap();
    assert_eq!(kept(data.path()), Vec::new());
    let project = data.path().join("project");
    fs::create_dir(&project).unwrap();
    let mut session = Session::create(data.path(), &project);
    session.append(user("hello")).unwrap();
    let dir = session.path().parent().unwrap().to_owned();
    fs::write(dir.join("0.jsonl"), "damaged").unwrap();
    let all = kept(data.path());
    assert_eq!((all.len(), all[0].sessions, all[0].open), (1, 2, true));
    assert_eq!(
        (all[0].project.as_ref(), all[0].is_there),
        (Some(&project), Some(true))
    );
    assert!(matches!(remove(&all[0]), Err(SessionError::Busy { .. })) && dir.exists());
    drop(session);
    fs::remove_dir(&project).unwrap();
    let all = kept(data.path());
    assert_eq!((all[0].is_there, all[0].open), (Some(false), false));
    remove(&all[0]).unwrap();
    assert!(kept(data.path()).is_empty());
}

/// Prints how long the large cases take; `cargo test -- --nocapture` shows it.
#[test]
#[expect(clippy::print_stderr, reason = "its figures are for a person")]
fn ten_thousand_messages_and_a_thousand_sessions_are_read_whole() {
    let place = Place::new();
    let project = Path::new("/home/me/project");
    let session = Header::new(Some(project));
    let mut lines = sealed(&First { session }).unwrap();
    for n in 1..=10_000_u64 {
        let place = EntryPlace {
            n: EntryId(n),
            parent: n.checked_sub(1).filter(|n| *n > 0).map(EntryId),
            messages: n as usize,
            time: jiff::Timestamp::now(),
            title: "hello".to_owned(),
        };
        let text = format!("{n}: \"some\" text\n").repeat(100);
        let body = if n % 2 == 1 {
            user(&text)
        } else {
            answer(&text, Vec::new())
        };
        lines.push_str(&sealed(&Entry { place, body }).unwrap());
    }
    let path = place.written(&[user("small")]);
    let large = path.with_file_name("large.jsonl");
    fs::write(&large, &lines).unwrap();
    let began = Instant::now();
    let (mut session, notice) = Session::open(&large).unwrap();
    let opened = began.elapsed();
    assert_eq!((session.messages().len(), notice), (10_000, None));
    let read = began.elapsed() - opened;
    let mut slowest = std::time::Duration::ZERO;
    let appending = Instant::now();
    for _ in 0..50 {
        let one = Instant::now();
        session.append(user(&"x".repeat(2000))).unwrap();
        slowest = slowest.max(one.elapsed());
    }
    let appended = appending.elapsed() / 50;
    for n in 0..1000 {
        fs::copy(&path, path.with_file_name(format!("{n}.jsonl"))).unwrap();
    }
    let began = Instant::now();
    let (list, unreadable) = Session::list(place.data.path(), project);
    let listed = began.elapsed();
    assert_eq!((list.len(), unreadable.len()), (1002, 0));
    eprintln!(
        "10,000 messages ({} bytes): opened in {opened:?}, messages in {read:?}; append {appended:?}, the slowest {slowest:?}; \
         1,002 sessions listed in {listed:?}",
        lines.len()
    );
}

#[test]
fn an_export_contains_what_is_in_it() {
    let place = Place::new();
    let mut session = place.session();
    session.append(user("look\u{1b}[31m at\n\n# this")).unwrap();
    session
        .append(answer("```c\nint x;", vec![call("a")]))
        .unwrap();
    let hostile = "````\n</details>\n```\n\u{1b}]0;x\u{7}";
    session
        .append(Body::Message(Message::Results(vec![result("a", hostile)])))
        .unwrap();
    session
        .append(answer("## Done\n\n<details>", Vec::new()))
        .unwrap();
    session.append(answer("- all\n- well", Vec::new())).unwrap();
    let page = session.markdown();
    assert!(!page.contains(['\u{1b}', '\u{7}']), "{page}");
    assert!(
        page.contains("> # this") && page.contains("> ```c") && page.contains("> <details>"),
        "{page}"
    );
    assert!(page.contains("`````\n````\n</details>\n```\n"), "{page}");
    assert!(page.contains("\n- all\n- well\n"), "{page}");
    let headings: Vec<String> = headings(&page);
    let model = "provider/model";
    assert_eq!(headings[1..], ["You", model, model, model]);
}

/// The headings of a page's own level.
fn headings(page: &str) -> Vec<String> {
    use pulldown_cmark::{Event, Parser, Tag, TagEnd};
    let (mut found, mut at, mut depth) = (Vec::new(), None, 0);
    for event in Parser::new(page) {
        match event {
            Event::Start(Tag::Heading { .. }) if depth == 0 => at = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => found.extend(at.take()),
            Event::Text(text) | Event::Code(text) if at.is_some() => {
                at.as_mut().unwrap().push_str(&text)
            }
            Event::Start(Tag::BlockQuote(_)) => depth += 1,
            Event::End(TagEnd::BlockQuote(_)) => depth -= 1,
            _ => {}
        }
    }
    found
}

proptest! {
    #[test]
    fn no_text_changes_the_outline_of_an_export(
        texts in prop::collection::vec("([#`~<>!\\-=a \n\\[\\]()*_]|```|<!--|<details>|\n\n|\u{1b}|    ){0,12}", 4),
    ) {
        let place = Place::new();
        let mut session = place.session();
        session.append(user(&texts[0])).unwrap();
        let mut asked = call("a");
        asked.name.clone_from(&texts[3]);
        session.append(answer(&texts[1], vec![asked.clone()])).unwrap();
        let result = CallResult::text(&asked, texts[2].clone(), false);
        session.append(Body::Message(Message::Results(vec![result]))).unwrap();
        session.append(user("the end")).unwrap();
        let page = session.markdown();
        prop_assert!(!page.contains('\x1b'));
        let all = headings(&page);
        let own: Vec<&str> = all.iter().map(String::as_str).filter(|title| ["You", "provider/model"].contains(title)).collect();
        prop_assert_eq!(own, ["You", "provider/model", "You"], "{}", page);
        prop_assert!(page.ends_with("\nthe end\n"));
    }
}
