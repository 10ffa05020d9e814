//! What the protocols have in common: parts of messages, results as text, marks for a cache.

use serde_json::{Value, json};

use crate::agent::message::{CallResult, Content, Image, User};

/// How a protocol writes a text and an image.
pub(super) struct Parts {
    pub(super) text: fn(&str) -> Value,
    pub(super) image: fn(&Image) -> Value,
}

impl Parts {
    /// What a person said: images first.
    pub(super) fn said(&self, user: &User) -> Vec<Value> {
        let images = user.images.iter().map(self.image);
        let text = (!user.text.is_empty()).then(|| (self.text)(&user.text));
        images.chain(text).collect()
    }

    /// What a call brought.
    pub(super) fn content(&self, content: &[Content]) -> Vec<Value> {
        let part = |part: &Content| match part {
            Content::Text(text) => (self.text)(text),
            Content::Image(image) => (self.image)(image),
        };
        content.iter().map(part).collect()
    }

    /// Results for protocols in which they are text, as `write` writes each; and the images, each after a word about the
    /// call that it belongs to.
    pub(super) fn results(
        &self,
        results: &[CallResult],
        write: impl Fn(&CallResult, String) -> Value,
    ) -> (Vec<Value>, Vec<Value>) {
        let (mut written, mut images) = (Vec::new(), Vec::new());
        for result in results {
            let mut number = 0;
            let mut texts = Vec::new();
            for part in &result.content {
                match part {
                    Content::Text(text) => texts.push(text.clone()),
                    Content::Image(image) => {
                        number += 1;
                        texts.push(format!("[image {number}: see below]"));
                        let (name, id) = (&result.name, &result.id);
                        let caption =
                            format!("Image {number} of the result of `{name}`, call {id}:");
                        images.extend([(self.text)(&caption), (self.image)(image)]);
                    }
                }
            }
            written.push(write(result, texts.join("\n")));
        }
        (written, images)
    }
}

/// An object without the members that are null: what is not set is not sent.
pub(super) fn fields(mut object: Value) -> Value {
    if let Some(members) = object.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
    object
}

/// A result's text where the protocol has no other way to say that the call failed.
pub(super) fn plain(result: &CallResult, text: String) -> String {
    match result.is_error {
        true => format!("The call failed:\n{text}"),
        false => text,
    }
}

/// An image as an address.
pub(super) fn data_url(image: &Image) -> String {
    format!("data:{};base64,{}", image.mime, image.data)
}

/// Marks the system's text and the ends of the last two messages to the model for Anthropic's cache: what comes before
/// them is read from it the next time.
pub(super) fn mark(messages: &mut [Value]) {
    let mut marked = 0;
    for message in messages.iter_mut().rev() {
        match message["role"].as_str() {
            Some("user" | "tool") if marked < 2 => marked += 1,
            Some("system") => {}
            _ => continue,
        }
        let content = &mut message["content"];
        if content.is_string() {
            *content = json!([{"type": "text", "text": content.take()}]);
        }
        if let Some(last) = content.as_array_mut().and_then(|parts| parts.last_mut()) {
            last["cache_control"] = json!({"type": "ephemeral"});
        }
    }
}
