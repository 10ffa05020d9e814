//! A person chooses hunks on a real terminal.

use std::fs;

use super::{changes, guest, host, repository};
use crate::common::tmux::Tmux;
use crate::common::{Place, eventually};

/// A terminal whose shell has cleared the screen and runs `apply --patch`.
struct Asked<'a> {
    tmux: &'a Tmux,
}

impl<'a> Asked<'a> {
    fn begin(tmux: &'a Tmux) -> Self {
        tmux.kind(&format!("clear; {} apply --patch", tmux.program));
        Self { tmux }
    }

    /// Waits for a text in the last lines: earlier questions stay on the screen.
    async fn shows(&self, text: &str) {
        eventually(text, || {
            self.tmux.screen().trim_end().ends_with(text.trim_end())
        })
        .await;
    }

    /// Answers questions, one after another.
    async fn answers(&self, all: &[(&str, &str)]) -> &Self {
        for (question, answer) in all {
            self.shows(question).await;
            match answer.starts_with("C-") {
                true => self.tmux.end_by(answer).await,
                false => self.tmux.kind(answer),
            }
        }
        self
    }

    /// Waits for the end; gives the screen. Ctrl-C ends a shell's whole line, so the status is asked for on the next one.
    async fn ends(&self, status: i32) -> String {
        self.tmux.kind("echo en''ded $?");
        let ended = format!("ended {status}");
        eventually(&ended, || self.tmux.shows(&ended)).await;
        self.tmux.screen()
    }
}

const MADE: &str = "Take made? [y,n,q,?]";
const FIRST: &str = "Take hunk 1 of 3 of numbers? [y,n,a,d,q,?]";
const SECOND: &str = "Take hunk 2 of 3 of numbers? [y,n,a,d,q,?]";
const THIRD: &str = "Take hunk 3 of 3 of numbers? [y,n,a,d,q,?]";
const SOURCE: &str = "Take src/a.c? [y,n,q,?]";
const HELP: &str = "y: take it; n: leave it; a: take it and the rest of the file";

/// The numbers of the host's file that are words by now.
fn words(place: &Place) -> Vec<String> {
    let numbers = host(place, "numbers");
    let words = numbers.lines().filter(|line| line.parse::<u32>().is_err());
    words.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_chooses_hunks_on_a_terminal() {
    let place = repository("debian");
    guest(
        &place,
        "sed -i 's/^2$/two/; s/^20$/twenty/; s/^39$/last/' numbers; printf 'a\\033]0;owned\\007b\\n' >made; \
         echo 'int other;' >src/a.c",
    )
    .await;
    let tmux = Tmux::start(&place, 100, 120);
    tmux.kind("export SNOWGLOBE_WORKSPACE_MODE=copy");

    // An answer that is none is explained, and the question comes again. What is quit is not taken, what was taken is.
    let asked = Asked::begin(&tmux);
    asked.answers(&[(MADE, "x"), (MADE, "yes")]).await;
    eventually("the help, twice", || {
        tmux.screen().matches(HELP).count() == 2
    })
    .await;
    asked.answers(&[(MADE, "?")]).await;
    eventually("the help, again", || {
        tmux.screen().matches(HELP).count() == 3
    })
    .await;
    let all = [
        (MADE, "n"),
        (FIRST, "n"),
        (SECOND, "y"),
        (THIRD, "n"),
        (SOURCE, "q"),
    ];
    let screen = asked.answers(&all).await.ends(0).await;
    assert!(screen.contains(r"+a\u{1b}]0;owned\u{7}b"), "{screen}");
    assert!(
        screen.contains("snowglobe apply --undo` takes this back"),
        "{screen}"
    );
    assert_eq!(words(&place), ["twenty"]);
    assert!(!place.workspace.join("made").exists());
    assert_eq!(host(&place, "src/a.c"), "int main;\n");

    // Nothing is chosen: by q at once, by the end of input, by an interrupt, by n to all.
    let undo = format!("clear; {} apply --undo; echo un''done $?", tmux.program);
    tmux.kind(&undo);
    eventually("the undoing", || tmux.shows("undone 0")).await;
    let nothing: [(&[(&str, &str)], i32); 4] = [
        (&[(MADE, "q")], 0),
        (&[(MADE, "C-d")], 0),
        (&[(MADE, "n"), (FIRST, "d"), (SOURCE, "n")], 0),
        (&[(MADE, "y"), (FIRST, "C-c")], 130),
    ];
    for (answers, status) in nothing {
        let screen = Asked::begin(&tmux)
            .answers(answers)
            .await
            .ends(status)
            .await;
        assert!(
            status == 130 || screen.contains("nothing is applied"),
            "{screen}"
        );
        assert!(words(&place).is_empty() && !place.workspace.join("made").exists());
    }

    // The rest of a file; all of it is the file, not its hunks.
    let all = [(MADE, "y"), (FIRST, "n"), (SECOND, "a"), (SOURCE, "C-d")];
    Asked::begin(&tmux).answers(&all).await.ends(0).await;
    assert_eq!(words(&place), ["twenty", "last"]);
    assert_eq!(host(&place, "made"), "a\x1b]0;owned\x07b\n");
    assert_eq!(host(&place, "src/a.c"), "int main;\n");
    assert_eq!(
        changes(&place).await,
        ["modified numbers", "modified src/a.c"]
    );

    // What is flagged says so before it is asked about, and is taken if a person takes it.
    guest(&place, "echo 'echo hello' >.envrc").await;
    let asked = Asked::begin(&tmux);
    asked.shows("Take .envrc? [y,n,q,?]").await;
    assert!(tmux.shows("flagged: "), "{}", tmux.screen());
    let all = [
        ("Take .envrc? [y,n,q,?]", "y"),
        ("Take numbers? [y,n,q,?]", "y"),
        (SOURCE, "y"),
    ];
    asked.answers(&all).await.ends(0).await;
    assert_eq!(
        fs::read_to_string(place.workspace.join(".envrc")).unwrap(),
        "echo hello\n"
    );
    assert_eq!(words(&place), ["two", "twenty", "last"]);
    assert_eq!(host(&place, "src/a.c"), "int other;\n");
    assert_eq!(changes(&place).await, Vec::<String>::new());
}
