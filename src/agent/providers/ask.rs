//! Asking a model: the request is made again after failures that pass, and each wait is told.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use jiff::Timestamp;

use super::asked::Asked;
use super::draft::Draft;
use super::failure::{Failure, Kind};
use super::name::ModelName;
use super::request::Delta;
use super::transport::{Access, Patience};
use crate::agent::message::Assistant;

/// How long is waited, and how often a request is made again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) patience: Patience,
    /// The first wait before a request is made again; each is twice as long as the one before.
    pub(super) first: Duration,
    /// The longest wait that is chosen.
    pub(super) longest: Duration,
    /// How often it is made again.
    pub(super) times: usize,
}

/// How often a server that is not there is tried again.
const NOT_THERE: usize = 4;
/// The longest wait that a provider may ask for.
const OBEYED: Duration = Duration::from_secs(120);

impl Default for Pace {
    /// Together the waits take about five minutes.
    fn default() -> Self {
        Self {
            patience: Patience {
                beginning: Duration::from_secs(300),
                silence: Duration::from_secs(120),
            },
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
            times: 8,
        }
    }
}

/// Gets what comes while a model answers.
pub(super) type Take<'a> = &'a mut (dyn FnMut(Delta) + Send);

/// Asks until there is an answer, or none is to be expected.
pub(super) async fn ask(
    access: &Access<'_>,
    pace: Pace,
    mut asked: Asked<'_>,
    take: Take<'_>,
) -> Result<Assistant, Failure> {
    let mut waits = ExponentialBuilder::default()
        .with_min_delay(pace.first)
        .with_max_delay(pace.longest)
        .with_max_times(pace.times)
        .with_jitter()
        .build();
    let (protocol, model) = (access.provider.protocol, asked.request.model);
    let mut body = protocol.body(&asked);
    let mut tried = 0;
    loop {
        tried += 1;
        let failure = match once(access, pace.patience, model, &body, take).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure.shown(&access.secrets),
        };
        let why = failure.why.as_str();
        let (after, most) = match failure.kind {
            Kind::Passing(after) => (after, pace.times),
            Kind::NotThere => (None, NOT_THERE),
            Kind::Summary if asked.summary => {
                asked.summary = false;
                body = protocol.body(&asked);
                continue;
            }
            Kind::Refused => return Ok(Draft::refusal(failure.why).finish(model.to_string())),
            _ => return Err(failure),
        };
        if let Some(wait) = after.filter(|wait| *wait > OBEYED) {
            let until = moment(wait);
            let why = format!("the provider takes no request before {until}: {why}");
            return Err(Failure::last(why));
        }
        let Some(chosen) = waits.next().filter(|_| tried <= most) else {
            return Err(match tried {
                1 => failure,
                tried => Failure::last(format!("{why}; tried {tried} times")),
            });
        };
        let after = after.map_or(chosen, |asked| asked.max(pace.first.min(chosen)));
        take(Delta::Retrying {
            why: format!("{}: {why}", access.name),
            after,
        });
        tokio::time::sleep(after).await;
    }
}

/// Makes the request once.
async fn once(
    access: &Access<'_>,
    patience: Patience,
    model: &ModelName,
    body: &serde_json::Value,
    take: Take<'_>,
) -> Result<Assistant, Failure> {
    let mut draft = Draft::default();
    let read = |data: &str| {
        if data.trim() == "[DONE]" {
            draft.ended = true;
            return Ok(false);
        }
        let data = serde_json::from_str(data)
            .map_err(|_| Failure::passing("it sends an event that is no JSON"))?;
        access.provider.protocol.read(&data, &mut draft)?;
        draft.news().into_iter().for_each(&mut *take);
        Ok(!draft.ended)
    };
    let events = access.events(&model.model, body, patience, read);
    match events.await {
        // Whatever comes after its end does not belong to the answer.
        Ok(()) if draft.ended || draft.stop.is_some() => {}
        Ok(()) => return Err(Failure::passing("its answer ended too early")),
        Err(failure) if matches!(failure.kind, Kind::Passing(_)) && draft.stop.is_some() => {}
        Err(failure) => return Err(failure),
    }
    Ok(draft.finish(model.to_string()))
}

/// The end of a wait: the time of day, and how long that is.
fn moment(wait: Duration) -> String {
    let until = Timestamp::now().checked_add(wait);
    let until = until.unwrap_or(Timestamp::MAX);
    let wait = crate::text::time(wait.as_secs());
    format!("{} (in {wait})", crate::text::moment(until))
}
