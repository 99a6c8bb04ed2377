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
    pipelines: &[
        PipelineInfo {
            name: "twice",
            summary: "",
            text: "do-nothing,do-nothing{n=2}",
        },
        PipelineInfo {
            name: "settle",
            summary: "",
            text: "do-nothing,(do-nothing{n=2})*",
        },
    ],
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
        "do-nothing{skip=*(a)*}",
        "(do-nothing)*",
        "do-nothing,(do-nothing{n=2},do-nothing)*,do-nothing",
        "((do-nothing)*,do-nothing{skip=*a})*",
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
    assert_eq!(
        parse(" ( settle , twice ) * ").unwrap(),
        "(do-nothing,(do-nothing{n=2})*,do-nothing,do-nothing{n=2})*"
    );
}

#[test]
fn steps_are_listed_in_order() {
    let pipeline = Pipeline::parse("(settle)*,do-nothing{deep}", REGISTRY).unwrap();
    let steps: Vec<String> = pipeline
        .steps()
        .iter()
        .map(|s| s.options.to_string())
        .collect();
    assert_eq!(steps, ["", "{n=2}", "{deep=true}"]);
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
            "(do-nothing",
            "pipeline, column 12: found the end, expected `,` or `)`",
        ),
        (
            "do-nothing)*",
            "pipeline, column 11: found `)`, expected `,` or the end",
        ),
        (
            "(do-nothing),do-nothing",
            "pipeline, column 13: found `,`, expected `*`: a group is repeated",
        ),
        (
            "()*",
            "pipeline, column 2: found `)`, expected the name of a pass",
        ),
        (
            "do-nothing*",
            "pipeline, column 11: found `*`, expected `,` or the end",
        ),
        (
            "(((do-nothing)*)*)*",
            "pipeline, column 3: groups are nested more than 2 deep",
        ),
        (
            "((settle)*)*",
            "pipeline, column 9: groups are nested more than 2 deep",
        ),
        (
            "(do-nothing{m})*",
            "pipeline, column 13: pass `do-nothing`: unknown option `m`; expected one of n, deep, skip",
        ),
        (
            "do-nothing{skip=\"a",
            "pipeline, column 18: quoted text has no end",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err().chain(), message);
    }
}
