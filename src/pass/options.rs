//! Options of passes: declared in the registry, checked when the pipeline is parsed.

use std::{fmt, path::Path};

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::error::{Error, Result};

/// An option that a pass takes.
pub struct OptionInfo {
    /// Its name.
    pub name: &'static str,
    /// What values it takes.
    pub kind: OptionKind,
    /// Its value when it is not given; for a list, empty.
    pub default: &'static str,
    /// One line.
    pub help: &'static str,
}

/// What values an option takes.
#[derive(Clone, Copy, Debug)]
pub enum OptionKind {
    /// `true` or `false`; the name alone means `true`.
    Flag,
    /// One of these integers.
    Int(&'static [i64]),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text; may be given several times.
    List,
    /// A list of files that the pass reads.
    Files,
}

impl OptionKind {
    /// Whether it may be given several times.
    fn is_list(self) -> bool {
        matches!(self, OptionKind::List | OptionKind::Files)
    }
}

impl fmt::Display for OptionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionKind::Flag => f.write_str("true or false"),
            OptionKind::Int(values) => {
                let values: Vec<String> = values.iter().map(i64::to_string).collect();
                f.write_str(&values.join(", "))
            }
            OptionKind::Choice(values) => f.write_str(&values.join(", ")),
            OptionKind::List => f.write_str("text, may be repeated"),
            OptionKind::Files => f.write_str("a file, may be repeated"),
        }
    }
}

/// The options of one pass in a pipeline, as given and checked against its declaration.
#[derive(Clone)]
pub struct Options {
    declared: &'static [OptionInfo],
    given: Vec<(&'static str, String)>,
}

impl Options {
    /// No option given.
    pub fn none(declared: &'static [OptionInfo]) -> Options {
        Options {
            declared,
            given: Vec::new(),
        }
    }

    /// Sets `name`; `value` is `None` for a name alone.
    ///
    /// # Errors
    /// The option does not exist, is given twice, or does not take that value.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        let info = self
            .declared
            .iter()
            .find(|o| o.name == name)
            .ok_or_else(|| {
                let names: Vec<_> = self.declared.iter().map(|o| o.name).collect();
                Error::input(match names.is_empty() {
                    true => format!("unknown option `{name}`; the pass takes none"),
                    false => format!(
                        "unknown option `{name}`; expected one of {}",
                        names.join(", ")
                    ),
                })
            })?;
        if !info.kind.is_list() && self.given.iter().any(|(n, _)| *n == name) {
            return Err(Error::input(format!("option `{name}` is given twice")));
        }
        let value = match (value, info.kind) {
            (Some(v), _) => v,
            (None, OptionKind::Flag) => "true",
            (None, kind) => {
                return Err(Error::input(format!(
                    "option `{name}` has no value; expected {kind}"
                )));
            }
        };
        let valid = match info.kind {
            OptionKind::Flag => value == "true" || value == "false",
            OptionKind::Int(allowed) => value.parse().is_ok_and(|v| allowed.contains(&v)),
            OptionKind::Choice(allowed) => allowed.contains(&value),
            OptionKind::List | OptionKind::Files => true,
        };
        if !valid {
            return Err(Error::input(format!(
                "option `{name}` is `{value}`; expected {}",
                info.kind
            )));
        }
        self.given.push((info.name, value.to_owned()));
        Ok(())
    }

    fn value(&self, name: &str) -> &str {
        let given = self.given.iter().find(|(n, _)| *n == name);
        let declared = self.declared.iter().find(|o| o.name == name);
        match (given, declared) {
            (Some((_, value)), _) => value,
            (None, Some(info)) => info.default,
            (None, None) => panic!("the pass declares its option `{name}`"),
        }
    }

    /// The value of a flag.
    pub fn flag(&self, name: &str) -> bool {
        self.value(name) == "true"
    }

    /// The value of an integer option.
    pub fn int(&self, name: &str) -> i64 {
        self.value(name)
            .parse()
            .expect("checked by `set`, or the declared default")
    }

    /// The value of a choice.
    pub fn choice(&self, name: &str) -> &str {
        self.value(name)
    }

    /// Whether the option is given.
    pub fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(n, _)| *n == name)
    }

    /// The values of a list option, as globs over names (`*` matches `/` too).
    ///
    /// # Errors
    /// A value is no glob.
    pub fn globs(&self, name: &str) -> Result<GlobSet> {
        let mut set = GlobSetBuilder::new();
        for pattern in self.list(name) {
            let glob = Glob::new(pattern).map_err(|e| {
                Error::input(format!("option `{name}`: `{pattern}` is no glob")).with_source(e)
            })?;
            set.add(glob);
        }
        let error = |e| Error::input(format!("option `{name}`")).with_source(e);
        set.build().map_err(error)
    }

    /// The files that the pass reads.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let is_file = |name: &str| {
            let declared = self.declared.iter().find(|o| o.name == name);
            declared.is_some_and(|o| matches!(o.kind, OptionKind::Files))
        };
        let given = self.given.iter().filter(move |(name, _)| is_file(name));
        given.map(|(_, value)| Path::new(value))
    }

    /// All values given for a list option.
    pub fn list(&self, name: &str) -> Vec<&str> {
        let given = self.given.iter();
        given
            .filter(|(n, _)| *n == name)
            .map(|(_, v)| v.as_str())
            .collect()
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.given.iter().enumerate() {
            f.write_str(if i == 0 { "{" } else { "," })?;
            let plain = |c: char| !c.is_whitespace() && !"{},=\"\\".contains(c);
            match !value.is_empty() && value.chars().all(plain) {
                true => write!(f, "{name}={value}")?,
                false => {
                    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
                    write!(f, "{name}=\"{escaped}\"")?;
                }
            }
        }
        match self.given.is_empty() {
            true => Ok(()),
            false => f.write_str("}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static DECLARED: &[OptionInfo] = &[
        OptionInfo {
            name: "flag",
            kind: OptionKind::Flag,
            default: "true",
            help: "",
        },
        OptionInfo {
            name: "int",
            kind: OptionKind::Int(&[-1, 16]),
            default: "16",
            help: "",
        },
        OptionInfo {
            name: "choice",
            kind: OptionKind::Choice(&["a", "b"]),
            default: "a",
            help: "",
        },
        OptionInfo {
            name: "list",
            kind: OptionKind::List,
            default: "",
            help: "",
        },
    ];

    #[test]
    fn defaults_and_values() {
        let mut options = Options::none(DECLARED);
        assert!(options.flag("flag") && !options.has("flag"));
        assert_eq!((options.int("int"), options.choice("choice")), (16, "a"));
        assert!(options.list("list").is_empty());
        for (name, value) in [
            ("flag", "false"),
            ("int", "-1"),
            ("choice", "b"),
            ("list", "x"),
            ("list", ""),
        ] {
            options.set(name, Some(value)).unwrap();
        }
        assert!(!options.flag("flag") && options.has("flag"));
        assert_eq!((options.int("int"), options.choice("choice")), (-1, "b"));
        assert_eq!(options.list("list"), ["x", ""]);
        assert_eq!(
            options.to_string(),
            "{flag=false,int=-1,choice=b,list=x,list=\"\"}"
        );
    }

    #[test]
    fn what_an_option_does_not_take() {
        let cases = [
            (
                "flag",
                Some("yes"),
                "option `flag` is `yes`; expected true or false",
            ),
            ("int", Some("17"), "option `int` is `17`; expected -1, 16"),
            ("int", Some(""), "option `int` is ``; expected -1, 16"),
            ("choice", Some("A"), "option `choice` is `A`; expected a, b"),
            (
                "list",
                None,
                "option `list` has no value; expected text, may be repeated",
            ),
            (
                "other",
                None,
                "unknown option `other`; expected one of flag, int, choice, list",
            ),
        ];
        for (name, value, expected) in cases {
            let error = Options::none(DECLARED).set(name, value).unwrap_err();
            assert_eq!(error.chain(), expected);
        }
        let error = Options::none(&[]).set("other", None).unwrap_err();
        assert_eq!(error.chain(), "unknown option `other`; the pass takes none");
        let mut options = Options::none(DECLARED);
        options.set("flag", None).unwrap();
        let error = options.set("flag", Some("true")).unwrap_err();
        assert_eq!(error.chain(), "option `flag` is given twice");
    }

    #[test]
    fn globs_match_whole_names_and_slashes() {
        let mut options = Options::none(DECLARED);
        assert!(!options.globs("list").unwrap().is_match(""));
        options.set("list", Some("/layers.*/q")).unwrap();
        options.set("list", Some("[ab]?")).unwrap();
        let globs = options.globs("list").unwrap();
        for name in ["/layers.0/q", "/layers.0/attn/q", "a1"] {
            assert!(globs.is_match(name), "{name}");
        }
        for name in ["/layers.0/q/x", "x/layers.0/q", "a", "c1"] {
            assert!(!globs.is_match(name), "{name}");
        }
        options.set("list", Some("[")).unwrap();
        let message = options.globs("list").unwrap_err().chain();
        assert!(
            message.starts_with("option `list`: `[` is no glob"),
            "{message}"
        );
    }
}
