//! Pipelines as text: `strip-attrs,nbits{bits=4,block=16}`.
//!
//! ```text
//! pipeline = [ list ]
//! list     = element { "," element }
//! element  = name [ "{" [ option { "," option } ] "}" ] | "(" list ")*"
//! option   = name [ "=" ( word | '"' text '"' ) ]
//! ```
//!
//! A name is that of a pass or of a named pipeline; both share one namespace. In quoted
//! text `\"` and `\\` stand for `"` and `\`. A pipeline prints back to what it means:
//! named pipelines expanded, blanks removed.
//!
//! `(identity,cse,dce)*` is a group: its passes run in turn until none of them changes
//! anything, [`ROUNDS`] times at most.

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

/// A part of a pipeline.
pub enum Element {
    /// One run of a pass.
    Step(Step),
    /// Parts that are run in turn until a whole round changes nothing.
    Group(Vec<Element>),
}

/// How often a group is run at most. Clean-up passes settle in two to four rounds; passes that
/// undo each other's work would go on for ever.
pub const ROUNDS: u32 = 10;

/// How deep groups may be nested: a named pipeline that has groups can stand in one. Deeper,
/// passes that never settle would run thousands of times.
const DEPTH: usize = 2;

/// Passes in the order they run.
#[derive(Default)]
pub struct Pipeline {
    /// The parts.
    pub elements: Vec<Element>,
}

impl Element {
    /// The passes in it, in order, each once.
    pub fn steps(&self) -> Vec<&Step> {
        match self {
            Element::Step(step) => vec![step],
            Element::Group(elements) => elements.iter().flat_map(Element::steps).collect(),
        }
    }

    /// How many groups lie in one another here.
    fn depth(&self) -> usize {
        match self {
            Element::Step(_) => 0,
            Element::Group(inner) => 1 + inner.iter().map(Element::depth).max().unwrap_or(0),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Step(step) => write!(f, "{}{}", step.info.name, step.options),
            Element::Group(elements) => {
                f.write_str("(")?;
                list(f, elements)?;
                f.write_str(")*")
            }
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, elements: &[Element]) -> fmt::Result {
    for (i, element) in elements.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(f, "{comma}{element}")?;
    }
    Ok(())
}

impl Pipeline {
    /// Parses `text` and builds its passes. Empty text is the pipeline without passes.
    ///
    /// # Errors
    /// The text is malformed, or names a pass or option that does not exist; with the
    /// position in characters, and a similar name when there is one.
    pub fn parse(text: &str, registry: Registry) -> Result<Pipeline> {
        let mut parser = Parser {
            text,
            at: 0,
            registry,
        };
        let elements = match parser.peek() {
            None => Vec::new(),
            Some(_) => parser.list(0)?,
        };
        match parser.peek() {
            None => Ok(Pipeline { elements }),
            Some(c) => Err(parser.error(format!("found `{c}`, expected `,` or the end"))),
        }
    }

    /// Adds a step.
    ///
    /// # Errors
    /// The pass refuses the combination of options.
    pub fn push(&mut self, info: &'static PassInfo, options: Options) -> Result<()> {
        self.elements.push(step(info, options)?);
        Ok(())
    }

    /// The passes, in order, each once.
    pub fn steps(&self) -> Vec<&Step> {
        self.elements.iter().flat_map(Element::steps).collect()
    }
}

fn step(info: &'static PassInfo, options: Options) -> Result<Element> {
    let pass = (info.build)(&options).map_err(|e| e.at(format!("pass `{}`", info.name)))?;
    Ok(Element::Step(Step {
        info,
        options,
        pass,
    }))
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.elements)
    }
}

/// What ends a word that is not quoted: globs, say, may hold anything else.
const WORD_ENDS: &str = ",{}=\"";

struct Parser<'a> {
    text: &'a str,
    at: usize,
    registry: Registry,
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

    /// What stands before a blank or one of `ends`.
    fn word(&mut self, ends: &str) -> String {
        self.peek();
        let rest = &self.text[self.at..];
        let end = rest
            .find(|c: char| c.is_whitespace() || ends.contains(c))
            .unwrap_or(rest.len());
        self.at += end;
        rest[..end].to_owned()
    }

    /// Elements up to the end, or what may follow a list. `depth` groups are open.
    fn list(&mut self, depth: usize) -> Result<Vec<Element>> {
        let mut elements = Vec::new();
        loop {
            match self.peek() {
                Some('(') => elements.push(self.group(depth)?),
                _ => self.named(depth, &mut elements)?,
            }
            match self.peek() {
                Some(',') => self.bump(),
                _ => return Ok(elements),
            }
        }
    }

    fn group(&mut self, depth: usize) -> Result<Element> {
        self.room(depth, 1)?;
        self.bump();
        let elements = self.list(depth + 1)?;
        self.expect(')', "`,` or `)`")?;
        self.expect('*', "`*`: a group is repeated")?;
        Ok(Element::Group(elements))
    }

    /// Fails when `more` groups do not fit into `depth` that are open.
    fn room(&self, depth: usize, more: usize) -> Result<()> {
        match depth + more > DEPTH {
            false => Ok(()),
            true => Err(self.error(format!("groups are nested more than {DEPTH} deep"))),
        }
    }

    fn expect(&mut self, wanted: char, words: &str) -> Result<()> {
        match self.peek() {
            Some(c) if c == wanted => {
                self.bump();
                Ok(())
            }
            _ => Err(self.error(format!("found {}, expected {words}", self.found()))),
        }
    }

    /// What stands here, for messages.
    fn found(&self) -> String {
        let next = self.text[self.at..].chars().next();
        next.map_or("the end".to_owned(), |c| format!("`{c}`"))
    }

    /// A pass, or the elements of a named pipeline.
    fn named(&mut self, depth: usize, elements: &mut Vec<Element>) -> Result<()> {
        let start = self.at;
        let name = self.word(",{}=\"()*");
        if name.is_empty() {
            let found = self.found();
            return Err(self.error(format!("found {found}, expected the name of a pass")));
        }
        let Some(info) = self.registry.pass(&name) else {
            let Some(named) = self.registry.pipeline(&name) else {
                self.at = start;
                return Err(self.error(unknown(&name, self.registry)));
            };
            if self.peek() == Some('{') {
                return Err(self.error(format!("`{name}` is a pipeline and takes no options")));
            }
            let inner = Pipeline::parse(named.text, self.registry)?.elements;
            self.room(depth, inner.iter().map(Element::depth).max().unwrap_or(0))?;
            elements.extend(inner);
            return Ok(());
        };
        let mut options = Options::none(info.options);
        if self.peek() == Some('{') {
            self.bump();
            self.options(info, &mut options)?;
        }
        elements.push(step(info, options)?);
        Ok(())
    }

    fn options(&mut self, info: &PassInfo, options: &mut Options) -> Result<()> {
        loop {
            if self.peek() == Some('}') {
                self.bump();
                return Ok(());
            }
            let start = self.at;
            let name = self.word(WORD_ENDS);
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
            return Ok(self.word(WORD_ENDS));
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
mod tests;
