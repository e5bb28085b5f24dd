//! What an e-mail address looks like: the grammar of HTML's e-mail field, with the limits of RFC 5321 on lengths and the
//! letters of all scripts that RFC 6531 allows.

/// Whether `text` is an address: a local part, an `@`, and a domain of at least two labels.
#[must_use]
pub fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    text.len() <= 254 && is_local(local) && is_domain(domain)
}

fn is_local(local: &str) -> bool {
    let atom =
        |atom: &str| !atom.is_empty() && atom.chars().all(|c| c.is_alphanumeric() || "!#$%&'*+/=?^_`{|}~-".contains(c));
    local.len() <= 64 && local.split('.').all(atom)
}

fn is_domain(domain: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    let numeric = |last: &str| last.bytes().all(|byte| byte.is_ascii_digit());
    domain.rsplit_once('.').is_some_and(|(_, last)| !numeric(last)) && domain.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::is_address;

    #[test]
    fn addresses() {
        for text in [
            "a@b.org",
            "ada.lovelace@example.co.uk",
            "o'brien+tag@example.com",
            "x@xn--bcher-kva.example",
            "müller@bücher.example",
            "1@2.three",
        ] {
            assert!(is_address(text), "{text}");
        }
    }

    #[test]
    fn no_addresses() {
        let long_local = format!("{}@b.org", "a".repeat(65));
        let long_label = format!("a@{}.org", "b".repeat(64));
        let long = format!("a@{}org", "b.".repeat(126));
        for text in [
            "",
            "@",
            "a",
            "a@",
            "@b.org",
            "a@b",
            "a b@c.org",
            "a@b c.org",
            "a@@b.org",
            "a@b@c.org",
            ".a@b.org",
            "a.@b.org",
            "a..b@c.org",
            "a@.org",
            "a@b.",
            "a@b..org",
            "a@-b.org",
            "a@b-.org",
            "a@b_c.org",
            "a@127.0.0.1",
            "a@b.org\n",
            " a@b.org",
            &long_local,
            &long_label,
            &long,
        ] {
            assert!(!is_address(text), "{text:?}");
        }
    }
}
