//! Completes the arguments of resource templates. Boots nothing.

use std::sync::Arc;

use rmcp::ErrorData;
use rmcp::model::{CompleteRequestParams, CompletionInfo, Reference};

use super::jobs;
use super::list::templates;
use crate::sandbox::Sandbox;
use crate::workspace::Name;

/// The values of a template's argument that begin as the given one does.
pub(crate) async fn complete(
    sandbox: Option<Arc<Sandbox>>,
    request: &CompleteRequestParams,
) -> Result<CompletionInfo, ErrorData> {
    let Reference::Resource(template) = &request.r#ref else {
        return Ok(CompletionInfo::default());
    };
    let known = templates(true).into_iter().chain(templates(false));
    if !known
        .map(|known| known.uri_template)
        .any(|known| known == template.uri)
    {
        return Err(ErrorData::invalid_params(
            format!(
                "there is no template {:?}: resources/templates/list has all templates",
                template.uri
            ),
            None,
        ));
    }
    let Some(sandbox) = sandbox else {
        return Ok(CompletionInfo::default());
    };
    let begun = request.argument.value.as_str();
    let kind = template.uri.trim_start_matches("snowglobe://");
    let mut more_names = false;
    let mut values: Vec<String> = match (kind.split('/').next(), request.argument.name.as_str()) {
        (Some("workspace"), "path") => {
            let (dir, name) = begun.rsplit_once('/').unwrap_or(("", begun));
            let names = sandbox.workspace().names(dir, name).await;
            more_names = names.more;
            let path = |name: Name| {
                let slash = if name.directory { "/" } else { "" };
                match dir.is_empty() {
                    true => format!("{}{slash}", name.name),
                    false => format!("{dir}/{}{slash}", name.name),
                }
            };
            names.first.into_iter().map(path).collect()
        }
        (Some("jobs"), "id") => jobs::jobs(&sandbox)
            .await
            .into_iter()
            .map(|info| info.id)
            .collect(),
        (Some("snapshots"), "name") => {
            let saved = sandbox.snapshot_list().await.unwrap_or_default();
            let names = saved.into_iter().map(|saved| saved.name.to_string());
            names.collect()
        }
        _ => Vec::new(),
    };
    values.retain(|value| value.starts_with(begun));
    let total = values.len();
    values.truncate(CompletionInfo::MAX_VALUES);
    let more = more_names || values.len() < total;
    let total = u32::try_from(total).ok().filter(|_| !more_names);
    CompletionInfo::with_pagination(values, total, more)
        .map_err(|error| ErrorData::internal_error(error, None))
}
