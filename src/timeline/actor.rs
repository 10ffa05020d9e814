//! Who does something: set where a client's request comes in, and read where an event is added.

tokio::task_local! {
    static ACTOR: String;
}

/// The longest name of an actor, in characters.
const LONGEST: usize = 80;

/// Does work for an actor, such as a client by its name.
pub(crate) async fn acting<F: Future>(actor: &str, work: F) -> F::Output {
    let actor = actor.chars().take(LONGEST).collect();
    ACTOR.scope(actor, work).await
}

/// The actor that the present task works for.
pub(crate) fn current() -> Option<String> {
    ACTOR.try_with(Clone::clone).ok()
}
