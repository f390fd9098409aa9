//! Writes the pages of the documentation that follow from tables: docs/settings.md and docs/routes.md.

use super::{
    issuers::{self, keys::IssuerKey},
    routes::keys::{KEYS, RouteKey, handlers_in_words, of_surfaces, surfaces_in_words},
    settings::{Preset, SETTINGS, Setting},
    toml::line,
    topics::columns::{COLUMNS, Column},
};
use crate::surface::{SURFACES, Surface, SurfaceKey};

/// Returns docs/settings.md: every setting with its names, unit, range, default and meaning.
#[must_use]
pub fn settings_page() -> String {
    let mut tables = String::new();
    for settings in SETTINGS.chunk_by(|one, next| one.heading == next.heading) {
        line(&mut tables, &format!("\n## {}\n", settings[0].heading));
        line(&mut tables, "| flag, variable, key | unit | range | default | reload | meaning |");
        line(&mut tables, "| --- | --- | --- | --- | --- | --- |");
        settings.iter().for_each(|setting| line(&mut tables, &setting_row(setting)));
    }
    let mut topics = String::from("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
    for column in COLUMNS {
        let (name, Column { value, preset, help, .. }) = (column.name(), column);
        line(&mut topics, &format!("| `{name}` | {value} | {preset} | {help} |"));
    }
    include_str!("reference/settings.md").replace("{{settings}}\n", &tables).replace("{{topics}}\n", &topics)
}

fn setting_row(setting: &Setting) -> String {
    let names = format!("`--{}`<br>`{}`<br>`{}`", setting.flag(), setting.variable(), setting.key);
    let list = if setting.is_list { "list: " } else { "" };
    let range = setting.range.unwrap_or_default();
    let default = match setting.preset {
        Preset::Value(value) => format!("`{value}`"),
        Preset::Otherwise { words, .. } => words.into(),
    };
    let reload = setting.reloads.words();
    format!("| {names} | {list}{} | {range} | {default} | {reload} | {} |", unit(setting), setting.help())
}

/// Returns the unit of a setting's values: a word that the page explains, or all values that there are.
fn unit(setting: &Setting) -> String {
    match setting.value_name {
        _ if setting.expected.starts_with('"') => setting.expected.replace('"', "`"),
        "CPU" => "CPU".into(),
        name => name.to_lowercase(),
    }
}

/// Returns docs/routes.md: every key of a route, and how routes fit together.
#[must_use]
pub fn routes_page() -> String {
    let mut table = String::from("| key | routes | value | default | meaning |\n| --- | --- | --- | --- | --- |\n");
    for RouteKey { name, routes, value, preset, help } in KEYS {
        let value = value.replace("{handlers}", &handlers_in_words());
        line(&mut table, &format!("| `{name}` | {} | {value} | {preset} | {help} |", routes.words()));
    }
    for (surface, key) in of_surfaces() {
        let SurfaceKey { value, preset, help, .. } = key;
        let (name, handler) = (key.name(), surface.name);
        line(&mut table, &format!("| `{name}` | `{handler}` | {value} | {preset} | {help} |"));
    }
    let mut surfaces = String::new();
    for Surface { name, effect, .. } in SURFACES {
        line(&mut surfaces, &format!("| `{name}` | {effect} |"));
    }
    let mut issuers = String::from("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
    for IssuerKey { name, value, preset, help } in issuers::keys::KEYS {
        line(&mut issuers, &format!("| `{name}` | {value} | {preset} | {help} |"));
    }
    let page = include_str!("reference/routes.md").replace("{{keys}}\n", &table).replace("{{issuers}}\n", &issuers);
    page.replace("{{surfaces}}\n", &surfaces).replace("{{names}}", &surfaces_in_words())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::show::example, *};

    /// Each unit is a word that the page explains, or names its values.
    #[test]
    fn units_are_explained() {
        let page = settings_page();
        for setting in SETTINGS {
            let unit = unit(setting);
            assert!(unit.starts_with('`') || page.contains(&format!("\n| {unit} | ")), "{unit} of {}", setting.key);
        }
    }

    /// A cell ends at a bar, and a row at the end of its line.
    #[test]
    fn cells_hold_their_texts() {
        let cells = KEYS.iter().flat_map(|key| [key.name, key.value, key.preset, key.help]);
        let cells = cells.chain(of_surfaces().flat_map(|(_, key)| [key.name(), key.value, key.preset, key.help]));
        let cells = cells.chain(SURFACES.iter().map(|surface| surface.effect));
        let cells = cells.chain(issuers::keys::KEYS.iter().flat_map(|key| [key.name, key.value, key.preset, key.help]));
        for text in cells.chain(SETTINGS.iter().flat_map(|row| [row.key, row.help(), row.preset.words()])) {
            assert!(!text.is_empty() && !text.contains(['|', '\n']), "{text}");
        }
        assert!(!settings_page().contains("{{") && !routes_page().contains("{{"));
    }

    /// The example, which tests uncomment and check, has every key of the table and no other.
    #[test]
    fn the_example_of_routes_has_every_key() {
        // The surface of the tests is in no example.
        let of_surfaces = of_surfaces().filter(|(surface, _)| surface.name != "lines").map(|(_, key)| key.name());
        let known = KEYS.iter().map(|key| key.name).chain(of_surfaces).map(String::from);
        assert_eq!(keys_of_example("routes"), known.collect());
    }

    #[test]
    fn the_example_of_issuers_has_every_key() {
        let known = issuers::keys::KEYS.iter().map(|key| key.name.to_string());
        assert_eq!(keys_of_example("issuers"), known.collect());
    }

    /// Returns the keys of the tables of this name.
    fn keys_of_example(tables: &str) -> BTreeSet<String> {
        let example = example();
        let mut keys = BTreeSet::new();
        let mut is_within = false;
        let mut table = None;
        let lines = example.lines().filter_map(|line| line.strip_prefix('#'));
        for line in lines.filter(|line| !line.starts_with(' ')) {
            if line.starts_with("[[") {
                is_within = line == format!("[[{tables}]]");
                table = None;
            } else if !is_within {
                continue;
            } else if let Some(name) = line.strip_prefix(&format!("[{tables}.")) {
                table = Some(name.trim_end_matches(']'));
                keys.extend(table.filter(|name| name.contains('.')).map(String::from));
            } else if let Some((key, _)) = line.split_once(" = ") {
                match table {
                    None => _ = keys.insert(key.into()),
                    Some(name) if name.contains('.') => {}
                    Some(name) => _ = keys.insert(format!("{name}.{key}")),
                }
            }
        }
        keys
    }
}
