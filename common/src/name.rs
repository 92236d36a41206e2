//! Names that can stand in a NATS subject and in an etcd key, each kind of thing with a type of its own.

/// Why a text cannot name an agent or a worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` cannot be {what}: use 1 to {max} of a-z, 0-9 and -")]
pub struct InvalidName {
    value: String,
    what: &'static str,
    max: usize,
}

/// Checks that `value` is 1 to `max` of `a-z`, `0-9` and `-`.
pub(crate) fn check(value: &str, what: &'static str, max: usize) -> Result<(), InvalidName> {
    let fits = (1..=max).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits { Ok(()) } else { Err(InvalidName { value: value.to_owned(), what, max }) }
}

/// A name's type: what it names, for messages, and how many bytes it may have.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, ::serde::Serialize, ::serde::Deserialize,
        )]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as a subject token.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::name::InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::name::check(text, $what, $max)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::name::InvalidName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

pub(crate) use name;

#[cfg(test)]
mod tests {
    use crate::job::AgentId;
    use crate::task::WorkerId;

    #[test]
    fn names_that_would_break_a_subject_are_refused() {
        for bad in ["", "a.b", "A", "a b", "a*", "ä"] {
            assert!(bad.parse::<AgentId>().is_err(), "{bad:?}");
            assert!(bad.parse::<WorkerId>().is_err(), "{bad:?}");
        }
        assert!("site-1".parse::<AgentId>().is_ok());
    }

    #[test]
    fn each_kind_has_its_own_length_and_says_what_it_names() {
        let long = "a".repeat(33);
        assert_eq!(
            long.parse::<AgentId>().unwrap_err().to_string(),
            format!("`{long}` cannot be an agent's id: use 1 to 32 of a-z, 0-9 and -")
        );
        assert_eq!(long.parse::<WorkerId>().unwrap().as_str(), long);
        assert!("a".repeat(65).parse::<WorkerId>().unwrap_err().to_string().contains("a worker's id"));
    }
}
