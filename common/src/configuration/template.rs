//! The commented file of a configuration with some of its values set.

/// A value for a commented file: section, key, and the value as TOML writes it.
pub type Filling<'a> = (&'a str, &'a str, String);

/// `defaults` with `values` in place of its own; comments stay. A key that stands behind `# `,
/// because it has no default, is set too.
pub fn filled(defaults: &str, values: &[Filling<'_>]) -> String {
    let mut section = String::new();
    let mut text = String::new();
    for line in defaults.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        }
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let key = bare.split_once(" = ").map(|(key, _)| key);
        match values.iter().find(|(of, name, _)| *of == section && Some(*name) == key) {
            Some((_, name, value)) => text.push_str(&format!("{name} = {value}")),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// A string as TOML writes it.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A list of strings as TOML writes it.
pub fn quoted_list(texts: &[String]) -> String {
    let items: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn values_take_the_place_of_defaults_and_of_keys_that_have_none() {
        let defaults = "# About x = 1.\n[A]\n# Says who.\n# Who = \"nobody\"\nPort = 1\n[B]\nPort = 1\n";
        let values = [("A", "Who", quoted("a \"b\"")), ("B", "Port", "2".to_owned())];
        expect![[r#"
            # About x = 1.
            [A]
            # Says who.
            Who = "a \"b\""
            Port = 1
            [B]
            Port = 2
        "#]]
        .assert_eq(&filled(defaults, &values));
    }

    #[test]
    fn a_list_is_written_item_by_item() {
        assert_eq!(quoted_list(&["a:1".to_owned(), "b:2".to_owned()]), r#"["a:1", "b:2"]"#);
        assert_eq!(quoted_list(&[]), "[]");
    }
}
