//! The last line: model, context, cost, sandbox.

use ratatui_core::text::{Line, Span};

use super::app::App;
use super::lines::{cut_span, span, width};
use crate::agent::event::SandboxState;
use crate::network::rules::Mode;

/// A number of tokens: `950`, `12.3k`, `4.56M`.
fn tokens(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1}k", count as f64 / 1e3),
        _ => format!("{:.2}M", count as f64 / 1e6),
    }
}

fn dollars(dollars: f64) -> String {
    match dollars < 0.995 {
        true => format!("${dollars:.3}"),
        false => format!("${dollars:.2}"),
    }
}

/// The parts, each with how soon it is left out where there is no room.
fn parts(app: &App) -> Vec<(u8, Span<'static>)> {
    let theme = app.page.theme;
    let (dim, warn) = (theme.dim(), theme.warn());
    let model = match &app.model[..] {
        "" => "no model yet",
        model => model.rsplit('/').next().unwrap_or(model),
    };
    let mut parts = vec![(6, span(model, dim))];
    let mut add = |rank, text: String, style| parts.push((rank, span(&text, style)));
    let used = app.spent.context.saturating_mul(100);
    if let Some(used) = used.checked_div(app.window) {
        let left = 100_u64.saturating_sub(used);
        let style = if left < 20 { warn } else { dim };
        add(5, format!("{left}% context left"), style);
    }
    let usage = app.spent.usage;
    if usage.input + usage.output > 0 {
        let (input, output) = (tokens(usage.input), tokens(usage.output));
        add(1, format!("{input} in, {output} out"), dim);
    }
    if let Some(cost) = app.spent.dollars {
        add(3, dollars(cost), dim);
    }
    match &app.sandbox {
        SandboxState::Connecting => add(4, "connecting".to_owned(), dim),
        SandboxState::Off => add(4, "sandbox off".to_owned(), dim),
        SandboxState::Booting => {
            let since = app.now.saturating_sub(app.sandbox_since).as_secs_f64();
            add(4, format!("booting {since:.1} s"), warn);
        }
        SandboxState::Running => add(4, "sandbox running".to_owned(), theme.good()),
        SandboxState::Lost(_) => add(4, "sandbox lost".to_owned(), theme.bad()),
    }
    let network = match app.network {
        Mode::Off => "no network",
        Mode::List => "network by list",
        Mode::Open => "open network",
    };
    add(0, network.to_owned(), dim);
    match app.jobs {
        0 => {}
        1 => add(2, "1 job".to_owned(), theme.accent()),
        jobs => add(2, format!("{jobs} jobs"), theme.accent()),
    }
    parts
}

/// As many parts as fit; the most important one is cut at worst.
pub(super) fn footer(app: &App) -> Line<'static> {
    let columns = app.page.columns;
    let theme = app.page.theme;
    if let Some((hint, _)) = &app.hint {
        return Line::from(cut_span(hint, theme.accent(), columns));
    }
    let mut parts = parts(app);
    let dot = Span::styled(theme.signs().dot, theme.dim());
    while parts.len() > 1 {
        let text: usize = parts.iter().map(|(_, part)| width(&part.content)).sum();
        if text + width(&dot.content) * (parts.len() - 1) <= columns {
            break;
        }
        let least = parts.iter().map(|(rank, _)| *rank).min();
        parts.retain(|(rank, _)| Some(*rank) != least);
    }
    let parts = parts.into_iter().flat_map(|(_, part)| {
        let part = cut_span(&part.content, part.style, columns);
        [dot.clone(), part]
    });
    parts.skip(1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(tokens(999), "999");
        assert_eq!(tokens(12_345), "12.3k");
        assert_eq!(tokens(4_560_000), "4.56M");
        assert_eq!(dollars(0.0123), "$0.012");
        assert_eq!(dollars(12.345), "$12.35");
    }
}
