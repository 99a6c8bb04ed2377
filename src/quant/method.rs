//! How codes are chosen: the methods by name, and what is left of each for a block by itself.

use std::{fmt, str::FromStr};

/// How the codes of a weight are chosen, with the name that options and recipes have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Round to nearest, [`BlockMethod::Rtn`].
    Rtn,
    /// Scale search, [`BlockMethod::Mse`].
    Mse,
    /// Half-quadratic quantization, [`BlockMethod::Hqq`].
    Hqq,
    /// Scale search where the errors of each column count as its activations are large:
    /// [`Rule::importance`].
    Imatrix,
    /// The same, of a model whose channels were scaled before by that knowledge: [`awq_scales`](super::awq_scales).
    Awq,
    /// By the error of the products with the activations: [`gptq`](super::gptq).
    Gptq,
}

/// What a method needs of a calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// How much each column of a weight counts: the mean squares of what it is multiplied by.
    Importance,
    /// The codes themselves.
    Codes,
}

impl Method {
    /// All of them; those that need no calibration first.
    pub const ALL: [Method; 6] = [
        Method::Rtn,
        Method::Mse,
        Method::Hqq,
        Method::Imatrix,
        Method::Awq,
        Method::Gptq,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Rtn => "rtn",
            Method::Mse => "mse",
            Method::Hqq => "hqq",
            Method::Imatrix => "imatrix",
            Method::Awq => "awq",
            Method::Gptq => "gptq",
        }
    }

    /// The names of `methods`, for declarations of what an option takes.
    pub const fn names<const N: usize>(methods: [Method; N]) -> [&'static str; N] {
        let mut names = [""; N];
        let mut i = 0;
        while i < N {
            names[i] = methods[i].name();
            i += 1;
        }
        names
    }

    /// What it needs of a calibration.
    pub const fn needs(self) -> Needs {
        match self {
            Method::Rtn | Method::Mse | Method::Hqq => Needs::Nothing,
            Method::Imatrix | Method::Awq => Needs::Importance,
            Method::Gptq => Needs::Codes,
        }
    }

    /// How it chooses the codes of a block by itself. Where a calibration has chosen none, that is what is
    /// left of [`Method::Gptq`].
    pub const fn of_blocks(self) -> BlockMethod {
        match self {
            Method::Rtn => BlockMethod::Rtn,
            Method::Hqq => BlockMethod::Hqq,
            Method::Mse | Method::Imatrix | Method::Awq | Method::Gptq => BlockMethod::Mse,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is none of a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownMethod(String);

impl fmt::Display for UnknownMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Method::names(Method::ALL).join(", ");
        write!(f, "unknown method `{}`; expected one of {names}", self.0)
    }
}

impl std::error::Error for UnknownMethod {}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Method, UnknownMethod> {
        let found = Method::ALL.into_iter().find(|m| m.name() == name);
        found.ok_or_else(|| UnknownMethod(name.to_owned()))
    }
}

/// How the scale and the zero point of a block are chosen. What each computes, to the bit, is in the
/// modules `rtn_ref` and `fit_ref`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BlockMethod {
    /// Round to nearest: the range of the block is the range of the codes.
    #[default]
    Rtn,
    /// Scale search: the candidate with the least weighted squared error, of a grid of scales
    /// (and zero points) each of which is refitted to the codes that it gives by least squares.
    Mse,
    /// Half-quadratic quantization: the scale of [`BlockMethod::Rtn`], and the zero point that solves
    /// a sparse regression. Without zero points it is [`BlockMethod::Rtn`].
    Hqq,
}

/// A method, and what it knows of the activations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rule<'a> {
    /// The method.
    pub method: BlockMethod,
    /// For each column of K how much its errors count: the mean square of the activation that
    /// it is multiplied with. Only [`BlockMethod::Mse`] asks for it. A number that is negative or
    /// NaN counts as 0; a block of zeros counts as one of equals.
    pub importance: Option<&'a [f32]>,
}

impl Rule<'_> {
    /// A method alone.
    pub const fn of(method: BlockMethod) -> Self {
        Self {
            method,
            importance: None,
        }
    }

    /// Checks that the importance is of `k` columns.
    pub(super) fn check(&self, k: usize) {
        if let Some(importance) = self.importance {
            assert_eq!(importance.len(), k, "importance of {k} columns");
        }
    }

    /// Whether something is computed beyond [`BlockMethod::Rtn`].
    pub(super) fn fits(&self, symmetric: bool) -> bool {
        match self.method {
            BlockMethod::Rtn => false,
            BlockMethod::Mse => true,
            BlockMethod::Hqq => !symmetric,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_back() {
        for method in Method::ALL {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
        let unknown = "best".parse::<Method>().unwrap_err().to_string();
        assert_eq!(
            unknown,
            "unknown method `best`; expected one of rtn, mse, hqq, imatrix, awq, gptq"
        );
    }
}
