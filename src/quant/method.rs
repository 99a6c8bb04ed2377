//! How the scale and the zero point of a block are chosen.

/// The methods. What each computes, to the bit, is in the modules `rtn_ref` and `fit_ref`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// Round to nearest: the range of the block is the range of the codes.
    #[default]
    Rtn,
    /// Scale search: the candidate with the least weighted squared error, of a grid of scales
    /// (and zero points) each of which is refitted to the codes that it gives by least squares.
    Mse,
    /// Half-quadratic quantization: the scale of [`Method::Rtn`], and the zero point that solves
    /// a sparse regression. Without zero points it is [`Method::Rtn`].
    Hqq,
}

/// A method, and what it knows of the activations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rule<'a> {
    /// The method.
    pub method: Method,
    /// For each column of K how much its errors count: the mean square of the activation that
    /// it is multiplied with. Only [`Method::Mse`] asks for it. A number that is negative or
    /// NaN counts as 0; a block of zeros counts as one of equals.
    pub importance: Option<&'a [f32]>,
}

impl Rule<'_> {
    /// A method alone.
    pub const fn of(method: Method) -> Self {
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

    /// Whether something is computed beyond [`Method::Rtn`].
    pub(super) fn fits(&self, symmetric: bool) -> bool {
        match self.method {
            Method::Rtn => false,
            Method::Mse => true,
            Method::Hqq => !symmetric,
        }
    }
}
