//! Pipelines as text: `strip-attrs,nbits{bits=4,block=16}`.
//!
//! ```text
//! pipeline = [ element { "," element } ]
//! element  = name [ "{" [ option { "," option } ] "}" ]
//! option   = name [ "=" ( word | '"' text '"' ) ]
//! ```
//!
//! A name is that of a pass or of a named pipeline; both share one namespace. In quoted
//! text `\"` and `\\` stand for `"` and `\`. A pipeline prints back to what it means:
//! named pipelines expanded, blanks removed.

use std::fmt;

use super::{Options, Pass, PassInfo};
use crate::error::{Error, Result};

/// A pipeline with a name.
pub struct PipelineInfo {
    /// The name.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// The pipeline.
    pub text: &'static str,
}

/// The passes and pipelines that names are looked up in.
#[derive(Clone, Copy)]
pub struct Registry {
    /// All passes.
    pub passes: &'static [&'static PassInfo],
    /// All named pipelines.
    pub pipelines: &'static [PipelineInfo],
}

impl Registry {
    /// The pass called `name`.
    pub fn pass(&self, name: &str) -> Option<&'static PassInfo> {
        self.passes.iter().find(|p| p.name == name).copied()
    }

    /// The pipeline called `name`.
    pub fn pipeline(&self, name: &str) -> Option<&'static PipelineInfo> {
        self.pipelines.iter().find(|p| p.name == name)
    }
}

/// One pass of a pipeline, built.
pub struct Step {
    /// What it is.
    pub info: &'static PassInfo,
    /// Its options as given.
    pub options: Options,
    /// The pass itself.
    pub pass: Box<dyn Pass>,
}

/// Passes in the order they run.
#[derive(Default)]
pub struct Pipeline {
    /// The passes.
    pub steps: Vec<Step>,
}

impl Pipeline {
    /// Parses `text` and builds its passes. Empty text is the pipeline without passes.
    ///
    /// # Errors
    /// The text is malformed, or names a pass or option that does not exist; with the
    /// position in characters, and a similar name when there is one.
    pub fn parse(text: &str, registry: Registry) -> Result<Pipeline> {
        let mut pipeline = Pipeline::default();
        let mut parser = Parser { text, at: 0 };
        if parser.peek().is_none() {
            return Ok(pipeline);
        }
        loop {
            parser.element(registry, &mut pipeline)?;
            match parser.peek() {
                None => return Ok(pipeline),
                Some(',') => parser.bump(),
                Some(c) => {
                    return Err(parser.error(format!("found `{c}`, expected `,` or the end")));
                }
            }
        }
    }

    /// Adds a step.
    ///
    /// # Errors
    /// The pass refuses the combination of options.
    pub fn push(&mut self, info: &'static PassInfo, options: Options) -> Result<()> {
        let pass = (info.build)(&options).map_err(|e| e.at(format!("pass `{}`", info.name)))?;
        self.steps.push(Step {
            info,
            options,
            pass,
        });
        Ok(())
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}{}", step.info.name, step.options)?;
        }
        Ok(())
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn error(&self, message: String) -> Error {
        let column = self.text[..self.at].chars().count() + 1;
        Error::input(format!("pipeline, column {column}: {message}"))
    }

    /// The next character after blanks.
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text[self.at..].chars().next()
    }

    fn bump(&mut self) {
        self.at += self.text[self.at..]
            .chars()
            .next()
            .map_or(0, char::len_utf8);
    }

    fn word(&mut self) -> String {
        self.peek();
        let rest = &self.text[self.at..];
        let end = rest
            .find(|c: char| c.is_whitespace() || ",{}=\"".contains(c))
            .unwrap_or(rest.len());
        self.at += end;
        rest[..end].to_owned()
    }

    fn element(&mut self, registry: Registry, pipeline: &mut Pipeline) -> Result<()> {
        let start = self.at;
        let name = self.word();
        if name.is_empty() {
            let found = self
                .peek()
                .map_or("the end".to_owned(), |c| format!("`{c}`"));
            return Err(self.error(format!("found {found}, expected the name of a pass")));
        }
        let Some(info) = registry.pass(&name) else {
            let Some(named) = registry.pipeline(&name) else {
                self.at = start;
                return Err(self.error(unknown(&name, registry)));
            };
            if self.peek() == Some('{') {
                return Err(self.error(format!("`{name}` is a pipeline and takes no options")));
            }
            let inner = Pipeline::parse(named.text, registry)?;
            pipeline.steps.extend(inner.steps);
            return Ok(());
        };
        let mut options = Options::none(info.options);
        if self.peek() == Some('{') {
            self.bump();
            self.options(info, &mut options)?;
        }
        pipeline.push(info, options)
    }

    fn options(&mut self, info: &PassInfo, options: &mut Options) -> Result<()> {
        loop {
            if self.peek() == Some('}') {
                self.bump();
                return Ok(());
            }
            let start = self.at;
            let name = self.word();
            let value = match self.peek() {
                Some('=') => {
                    self.bump();
                    Some(self.value()?)
                }
                _ => None,
            };
            if let Err(e) = options.set(&name, value.as_deref()) {
                self.at = start;
                return Err(self.error(format!("pass `{}`: {e}", info.name)));
            }
            match self.peek() {
                Some(',') => self.bump(),
                Some('}') => {}
                Some(c) => return Err(self.error(format!("found `{c}`, expected `,` or `}}`"))),
                None => return Err(self.error("found the end, expected `}`".to_owned())),
            }
        }
    }

    fn value(&mut self) -> Result<String> {
        if self.peek() != Some('"') {
            return Ok(self.word());
        }
        self.bump();
        let mut out = String::new();
        let mut chars = self.text[self.at..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => out.push(c),
                    _ => {
                        return Err(
                            self.error("expected `\\\"` or `\\\\` in quoted text".to_owned())
                        );
                    }
                },
                c => out.push(c),
            }
        }
        Err(self.error("quoted text has no end".to_owned()))
    }
}

fn unknown(name: &str, registry: Registry) -> String {
    let passes = registry.passes.iter().map(|p| p.name);
    let names: Vec<&str> = passes
        .chain(registry.pipelines.iter().map(|p| p.name))
        .collect();
    let similar = names.iter().min_by_key(|n| distance(name, n));
    let hint = match similar {
        Some(n) if distance(name, n) <= 2 => format!("did you mean `{n}`?"),
        _ => format!("expected one of {}", names.join(", ")),
    };
    format!("no pass or pipeline is called `{name}`; {hint}")
}

/// Edit distance, for names of a few letters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ir::Model,
        pass::{Changed, OptionInfo, OptionKind, PassContext},
    };

    struct Nothing;

    impl Pass for Nothing {
        fn run(&self, _: &mut Model, _: &mut PassContext) -> Result<Changed> {
            Ok(Changed::No)
        }
    }

    static NOTHING: PassInfo = PassInfo {
        name: "do-nothing",
        summary: "",
        doc: "",
        options: &[
            OptionInfo {
                name: "n",
                kind: OptionKind::Int(&[1, 2]),
                default: "1",
                help: "",
            },
            OptionInfo {
                name: "deep",
                kind: OptionKind::Flag,
                default: "false",
                help: "",
            },
            OptionInfo {
                name: "skip",
                kind: OptionKind::List,
                default: "",
                help: "",
            },
        ],
        build: |_| Ok(Box::new(Nothing)),
    };

    const REGISTRY: Registry = Registry {
        passes: &[&NOTHING],
        pipelines: &[PipelineInfo {
            name: "twice",
            summary: "",
            text: "do-nothing,do-nothing{n=2}",
        }],
    };

    fn parse(text: &str) -> Result<String> {
        Ok(Pipeline::parse(text, REGISTRY)?.to_string())
    }

    #[test]
    fn prints_back() {
        for text in [
            "",
            "do-nothing",
            "do-nothing{n=2,deep=true}",
            r#"do-nothing{skip="a=b"}"#,
            r#"do-nothing{skip="a,b",skip="\\\"",skip=x}"#,
        ] {
            assert_eq!(parse(text).unwrap(), text);
            assert_eq!(parse(&parse(text).unwrap()).unwrap(), text);
        }
        assert_eq!(
            parse(" do-nothing { deep } ").unwrap(),
            "do-nothing{deep=true}"
        );
        assert_eq!(
            parse("twice,do-nothing{}").unwrap(),
            "do-nothing,do-nothing{n=2},do-nothing"
        );
    }

    #[test]
    fn errors_say_where_and_what_was_expected() {
        for (text, message) in [
            (
                "do-nothin",
                "pipeline, column 1: no pass or pipeline is called `do-nothin`; did you mean `do-nothing`?",
            ),
            (
                "do-nothing,",
                "pipeline, column 12: found the end, expected the name of a pass",
            ),
            (
                "do-nothing{n=3}",
                "pipeline, column 12: pass `do-nothing`: option `n` is `3`; expected 1, 2",
            ),
            (
                "do-nothing{n=1,n=2}",
                "pipeline, column 16: pass `do-nothing`: option `n` is given twice",
            ),
            (
                "do-nothing{m}",
                "pipeline, column 12: pass `do-nothing`: unknown option `m`; expected one of n, deep, skip",
            ),
            (
                "do-nothing{n",
                "pipeline, column 12: pass `do-nothing`: option `n` has no value; expected 1, 2",
            ),
            (
                "do-nothing{deep",
                "pipeline, column 16: found the end, expected `}`",
            ),
            (
                "do-nothing do-nothing",
                "pipeline, column 12: found `d`, expected `,` or the end",
            ),
            (
                "twice{n=1}",
                "pipeline, column 6: `twice` is a pipeline and takes no options",
            ),
            (
                "do-nothing{skip=\"a",
                "pipeline, column 18: quoted text has no end",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().chain(), message);
        }
    }
}
