//! A secret on the host: when its value is read, and how it is put into a header.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use http::{HeaderName, HeaderValue};
use memchr::memmem;

use super::mask::SHORTEST;
use crate::key::{Environment, KeySource};
use crate::network::rules::Rules;

/// How often one value of a header may name a placeholder.
pub(super) const MAX_USES: usize = 4;

/// Former values of a secret that are still hidden.
const MAX_FORMER: usize = 8;

/// For how long a value that can't be read is not tried again.
const FAILED: Duration = Duration::from_secs(5);

/// For how long a value that a server refuses is not read anew.
pub(super) const REFUSED: Duration = Duration::from_secs(30);

/// A secret with its value.
pub(super) struct Held {
    pub(super) name: String,
    pub(super) placeholder: String,
    from: KeySource,
    pub(super) header: HeaderName,
    pub(super) hosts: Rules,
    /// Who holds it reads the value.
    pub(super) reading: tokio::sync::Mutex<Reading>,
    values: Mutex<Values>,
}

/// The values that were read.
#[derive(Default)]
pub(super) struct Values {
    /// The one in use is the last.
    pub(super) all: Vec<String>,
    /// How often they changed.
    pub(super) changes: u64,
}

/// When the value was read, and when that failed.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) read: Option<Instant>,
    failed: Option<(Instant, String)>,
}

impl Held {
    /// A secret whose value was not read yet.
    pub(super) fn new(
        name: String,
        placeholder: String,
        from: KeySource,
        header: HeaderName,
        hosts: Rules,
    ) -> Self {
        Self {
            name,
            placeholder,
            from,
            header,
            hosts,
            reading: Default::default(),
            values: Mutex::default(),
        }
    }

    /// A server refuses the value: it is read anew for the next request, if it may have been renewed.
    pub(super) async fn refused(&self) {
        if matches!(self.from, KeySource::Variable(_)) {
            return;
        }
        let mut reading = self.reading.lock().await;
        if reading.read.is_some_and(|read| read.elapsed() >= REFUSED) {
            reading.read = None;
        }
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value in use; reads it if that is necessary.
    pub(super) async fn value(&self, environment: &Environment) -> Result<String, String> {
        let mut reading = self.reading.lock().await;
        let known = self.known().all.last().cloned();
        if let (Some(known), Some(_)) = (known, reading.read) {
            return Ok(known);
        }
        if let Some((_, why)) = reading
            .failed
            .as_ref()
            .filter(|(when, _)| when.elapsed() < FAILED)
        {
            return Err(why.clone());
        }
        match self.read(environment).await {
            Ok(value) => {
                *reading = Reading {
                    read: Some(Instant::now()),
                    failed: None,
                };
                self.keep(value.clone());
                Ok(value)
            }
            Err(why) => {
                reading.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    async fn read(&self, environment: &Environment) -> Result<String, String> {
        let value = self
            .from
            .read(environment)
            .await?
            .ok_or("nothing says where it is")?;
        match value.len() < SHORTEST {
            true => Err(format!(
                "it has fewer than {SHORTEST} characters, too few to be found in answers and hidden there"
            )),
            false => Ok(value),
        }
    }

    /// Puts a value into use.
    fn keep(&self, value: String) {
        let mut values = self.known();
        if let Some(at) = values.all.iter().position(|known| *known == value) {
            return values.all[at..].rotate_left(1);
        }
        values.all.push(value);
        values.changes += 1;
        if values.all.len() > MAX_FORMER {
            values.all.remove(0);
        }
    }

    /// Whether a header names this secret.
    pub(super) fn is_named(&self, header: &HeaderValue) -> bool {
        let finder = memmem::Finder::new(&self.placeholder);
        finder.find(header.as_bytes()).is_some()
            || decoded(&self.header, header).is_some_and(|pair| finder.find(&pair).is_some())
    }

    /// Puts the value into a header that names this secret.
    pub(super) fn put_into(&self, value: &str, header: &mut HeaderValue) -> Result<(), String> {
        let new = match decoded(&self.header, header) {
            Some(pair) => {
                let pair = replaced(&pair, self.placeholder.as_bytes(), value.as_bytes());
                format!("Basic {}", STANDARD.encode(pair)).into_bytes()
            }
            None => replaced(
                header.as_bytes(),
                self.placeholder.as_bytes(),
                value.as_bytes(),
            ),
        };
        *header = HeaderValue::from_bytes(&new).map_err(|_| "no header can hold it")?;
        header.set_sensitive(true);
        Ok(())
    }
}

/// The name and the password of basic authentication.
fn decoded(name: &HeaderName, header: &HeaderValue) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &ALPHABET,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    if name != http::header::AUTHORIZATION {
        return None;
    }
    let (scheme, rest) = header.as_bytes().split_at_checked(6)?;
    scheme
        .eq_ignore_ascii_case(b"basic ")
        .then(|| LENIENT.decode(rest.trim_ascii()).ok())?
}

fn replaced(text: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    let (mut new, mut at) = (Vec::with_capacity(text.len()), 0);
    for found in memmem::find_iter(text, what).take(MAX_USES) {
        new.extend_from_slice(&text[at..found]);
        new.extend_from_slice(by);
        at = found + what.len();
    }
    new.extend_from_slice(&text[at..]);
    new
}
