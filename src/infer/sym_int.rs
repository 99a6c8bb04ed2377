//! Integers that depend on what callers choose: extents, and the elements of shapes.

use std::{fmt, sync::Arc};

use crate::ir::{EntityId, Str, ValueId};

/// An integer: a polynomial with integer coefficients, in a canonical form, over names, unknown
/// extents and elements, and quotients, minima, maxima and broadcasts of such polynomials,
/// so that equal polynomials are equal values. Different values may still be the same
/// integer at run time; equal ones always are.
///
/// Arithmetic gives `None` where the result does not fit in 64 bits or would have too many
/// terms: whoever asks then treats it as not known.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SymInt {
    constant: i64,
    /// Sorted by their factors, none with coefficient 0; `None` when there are none.
    terms: Option<Arc<[Term]>>,
}

/// A product of atoms, so many times.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Term {
    /// Sorted.
    factors: Vec<Atom>,
    coefficient: i64,
}

/// What a polynomial is over.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Atom {
    /// An extent that the model names.
    Symbol(Str),
    /// The extent of an axis of a value, of which nothing is known.
    Extent(ValueId, u32),
    /// An element of a value, of which nothing is known.
    Element(ValueId, u32),
    /// The quotient of two, rounded down.
    Quotient(Box<(SymInt, SymInt)>),
    /// The larger of two.
    Max(Box<(SymInt, SymInt)>),
    /// The smaller of two.
    Min(Box<(SymInt, SymInt)>),
    /// The extent of the result when these two are broadcast.
    Broadcast(Box<(SymInt, SymInt)>),
}

/// Terms of a polynomial, at most. Extents of real models have three or four; what is
/// longer is not worth the time it takes.
const TERMS: usize = 24;

/// Atoms in all, those inside atoms included, at most: what is squared or halved again and
/// again would otherwise grow for ever.
const ATOMS: usize = 64;

impl From<i64> for SymInt {
    fn from(constant: i64) -> SymInt {
        SymInt {
            constant,
            terms: None,
        }
    }
}

impl SymInt {
    /// The extent that the model calls `name`.
    pub fn symbol(name: &str) -> SymInt {
        SymInt::atom(Atom::Symbol(name.into()))
    }

    /// The extent of `axis` of `value`, which is not known.
    pub(super) fn extent(value: ValueId, axis: usize) -> SymInt {
        SymInt::atom(Atom::Extent(value, axis as u32))
    }

    /// Element `index` of `value`, which is not known.
    pub(super) fn element(value: ValueId, index: usize) -> SymInt {
        SymInt::atom(Atom::Element(value, index as u32))
    }

    fn atom(atom: Atom) -> SymInt {
        SymInt::new(0, vec![(vec![atom], 1)])
    }

    fn new(constant: i64, terms: Vec<(Vec<Atom>, i64)>) -> SymInt {
        let terms: Arc<[Term]> = terms
            .into_iter()
            .map(|(factors, coefficient)| Term {
                factors,
                coefficient,
            })
            .collect();
        SymInt {
            constant,
            terms: (!terms.is_empty()).then_some(terms),
        }
    }

    /// The number, when it is one.
    pub fn known(&self) -> Option<i64> {
        self.terms.is_none().then_some(self.constant)
    }

    /// Whether it is the number `n`.
    pub fn is(&self, n: i64) -> bool {
        self.known() == Some(n)
    }

    fn terms(&self) -> &[Term] {
        self.terms.as_deref().unwrap_or_default()
    }

    /// The polynomial of these terms, in any order.
    fn collect(constant: i64, terms: impl IntoIterator<Item = (Vec<Atom>, i64)>) -> Option<SymInt> {
        let mut terms: Vec<_> = terms.into_iter().collect();
        terms.sort_by(|a, b| a.0.cmp(&b.0));
        let mut merged: Vec<(Vec<Atom>, i64)> = Vec::with_capacity(terms.len());
        for (factors, coefficient) in terms {
            match merged.last_mut() {
                Some(last) if last.0 == factors => last.1 = last.1.checked_add(coefficient)?,
                _ => merged.push((factors, coefficient)),
            }
        }
        merged.retain(|t| t.1 != 0);
        let atoms = merged.iter().flat_map(|t| &t.0).map(Atom::size);
        let small = merged.len() <= TERMS && atoms.sum::<usize>() <= ATOMS;
        small.then(|| SymInt::new(constant, merged))
    }

    /// The sum.
    pub fn add(&self, other: &SymInt) -> Option<SymInt> {
        let constant = self.constant.checked_add(other.constant)?;
        let terms = self.terms().iter().chain(other.terms());
        SymInt::collect(constant, terms.map(|t| (t.factors.clone(), t.coefficient)))
    }

    /// The difference.
    pub fn sub(&self, other: &SymInt) -> Option<SymInt> {
        self.add(&other.mul(&SymInt::from(-1))?)
    }

    /// The product.
    pub fn mul(&self, other: &SymInt) -> Option<SymInt> {
        let constant = self.constant.checked_mul(other.constant)?;
        let mut terms = Vec::new();
        for (a, b) in [(self, other), (other, self)] {
            if b.constant != 0 {
                for t in a.terms() {
                    let coefficient = t.coefficient.checked_mul(b.constant)?;
                    terms.push((t.factors.clone(), coefficient));
                }
            }
        }
        for a in self.terms() {
            for b in other.terms() {
                let mut factors = [a.factors.as_slice(), b.factors.as_slice()].concat();
                factors.sort();
                terms.push((factors, a.coefficient.checked_mul(b.coefficient)?));
            }
        }
        SymInt::collect(constant, terms)
    }

    /// The quotient, rounded down; `None` also when `divisor` may be zero or negative.
    ///
    /// A quotient of extents that a model computes is taken to have a divisor that is not
    /// zero: the model would fail otherwise.
    pub fn floor_div(&self, divisor: &SymInt) -> Option<SymInt> {
        if let Some(exact) = self.exact_div(divisor) {
            return Some(exact);
        }
        if divisor.lower()? < 1 {
            return None;
        }
        // What divides without a rest comes out, whatever it is: floor(q + r/d) = q + floor(r/d).
        let (mut whole, mut rest) = (Vec::new(), Vec::new());
        for t in self.terms() {
            let own = SymInt::new(0, vec![(t.factors.clone(), t.coefficient)]);
            match own.exact_div(divisor) {
                Some(q) => whole.push(q),
                None => rest.push((t.factors.clone(), t.coefficient)),
            }
        }
        let mut out = SymInt::from(0);
        for q in &whole {
            out = out.add(q)?;
        }
        let rest = SymInt::new(self.constant, rest);
        let rest = match (rest.known(), divisor.known()) {
            (Some(r), Some(d)) => SymInt::from(r.div_euclid(d)),
            // The constant, too, as far as it divides.
            (None, Some(d)) => {
                out = out.add(&SymInt::from(rest.constant.div_euclid(d)))?;
                let rest = SymInt {
                    constant: rest.constant.rem_euclid(d),
                    ..rest
                };
                SymInt::pair(Atom::Quotient, rest, SymInt::from(d))?
            }
            _ => SymInt::pair(Atom::Quotient, rest, divisor.clone())?,
        };
        out.add(&rest)
    }

    /// The quotient by a `divisor` that leaves no rest whatever the atoms are.
    fn exact_div(&self, divisor: &SymInt) -> Option<SymInt> {
        let single = |factors: &[Atom], coefficient: i64| {
            let divide = |t: (&[Atom], i64)| -> Option<(Vec<Atom>, i64)> {
                let mut left = t.0.to_vec();
                for f in factors {
                    left.remove(left.iter().position(|x| x == f)?);
                }
                (t.1.checked_rem(coefficient)? == 0).then_some(())?;
                Some((left, t.1.checked_div(coefficient)?))
            };
            let own = self.terms().iter().map(|t| (&*t.factors, t.coefficient));
            let constant = (self.constant != 0).then_some((&[] as &[Atom], self.constant));
            let divided: Vec<_> = own.chain(constant).map(divide).collect::<Option<_>>()?;
            let (rest, terms): (Vec<_>, Vec<_>) = divided.into_iter().partition(|t| t.0.is_empty());
            let constant = rest.iter().map(|t| t.1).sum();
            SymInt::collect(constant, terms)
        };
        match (divisor.terms(), divisor.constant) {
            ([], 0) => None,
            ([], n) => single(&[], n),
            ([t], 0) => single(&t.factors, t.coefficient),
            _ if self == divisor => Some(SymInt::from(1)),
            _ => None,
        }
    }

    /// The quotient by `divisor` when there is no rest whatever the atoms are.
    pub(super) fn exact_quotient(&self, divisor: i64) -> Option<SymInt> {
        self.exact_div(&SymInt::from(divisor))
    }

    /// What is left of a division that rounds down; `None` as for [`SymInt::floor_div`].
    pub fn rem(&self, divisor: &SymInt) -> Option<SymInt> {
        self.sub(&self.floor_div(divisor)?.mul(divisor)?)
    }

    /// The larger of the two.
    pub fn maximum(&self, other: &SymInt) -> Option<SymInt> {
        match self.sub(other)?.bounds() {
            (Some(0..), _) => Some(self.clone()),
            (_, Some(..=0)) => Some(other.clone()),
            _ => SymInt::pair(Atom::Max, self.clone(), other.clone()),
        }
    }

    /// The smaller of the two.
    pub fn minimum(&self, other: &SymInt) -> Option<SymInt> {
        match self.sub(other)?.bounds() {
            (Some(0..), _) => Some(other.clone()),
            (_, Some(..=0)) => Some(self.clone()),
            _ => SymInt::pair(Atom::Min, self.clone(), other.clone()),
        }
    }

    /// The extent of the result when axes of these extents are broadcast; `None` when they
    /// cannot be.
    pub fn broadcast(&self, other: &SymInt) -> Option<SymInt> {
        if self == other || other.is(1) {
            return Some(self.clone());
        }
        match (self.known(), other.known()) {
            (Some(1), _) => Some(other.clone()),
            (Some(_), Some(_)) => None,
            // The other one is 1 or the same.
            (Some(_), None) => Some(self.clone()),
            (None, Some(_)) => Some(other.clone()),
            (None, None) => SymInt::pair(Atom::Broadcast, self.clone(), other.clone()),
        }
    }

    /// A function of two; symmetric ones get their operands in order.
    fn pair(make: fn(Box<(SymInt, SymInt)>) -> Atom, a: SymInt, b: SymInt) -> Option<SymInt> {
        let atom = match make(Box::new((a, b))) {
            quotient @ Atom::Quotient(_) => quotient,
            symmetric => {
                let (Atom::Max(p) | Atom::Min(p) | Atom::Broadcast(p)) = symmetric else {
                    return None;
                };
                let (a, b) = *p;
                make(Box::new(if b < a { (b, a) } else { (a, b) }))
            }
        };
        (atom.size() <= ATOMS).then(|| SymInt::atom(atom))
    }

    fn size(&self) -> usize {
        let atoms = self.terms().iter().flat_map(|t| &t.factors);
        atoms.map(Atom::size).sum()
    }

    /// No value it takes is smaller.
    pub fn lower(&self) -> Option<i64> {
        self.bounds().0
    }

    /// No value it takes is larger.
    pub fn upper(&self) -> Option<i64> {
        self.bounds().1
    }

    /// Whether `other` is certainly 0 wherever this is: each factor of this one product is a factor of
    /// `other`, a product too.
    pub(super) fn vanishes_with(&self, other: &SymInt) -> bool {
        match (self.constant, self.terms(), other.constant, other.terms()) {
            (0, [own], 0, [others]) => own.factors.iter().all(|f| others.factors.contains(f)),
            _ => self == other,
        }
    }

    /// Whether it is an extent or a sum or difference of a few, as 32 bits always hold: extents are
    /// far below 2^30.
    pub(super) fn fits_32_bits(&self) -> bool {
        let plain = |t: &Term| t.factors.len() == 1 && t.coefficient.unsigned_abs() == 1;
        match self.known() {
            Some(n) => i32::try_from(n).is_ok(),
            None => {
                self.terms().len() <= 4
                    && self.terms().iter().all(plain)
                    && self.constant.unsigned_abs() < 1 << 24
            }
        }
    }

    /// Bounds from the atoms' lower bounds: those of extents are 0.
    fn bounds(&self) -> (Option<i64>, Option<i64>) {
        let (mut low, mut high) = (Some(self.constant), Some(self.constant));
        for t in self.terms() {
            let least = t.least().and_then(|n| n.checked_mul(t.coefficient));
            let (bounded, open) = match t.coefficient > 0 {
                true => (&mut low, &mut high),
                false => (&mut high, &mut low),
            };
            *bounded = bounded
                .zip(least)
                .and_then(|(bound, n)| bound.checked_add(n));
            *open = None;
        }
        (low, high)
    }

    /// Whether the two are equal, when that can be told.
    pub fn equals(&self, other: &SymInt) -> Option<bool> {
        match self.sub(other)?.bounds() {
            (Some(0), Some(0)) => Some(true),
            (Some(1..), _) | (_, Some(..0)) => Some(false),
            _ => None,
        }
    }

    /// Whether it is smaller than `other`, when that can be told.
    pub fn less(&self, other: &SymInt) -> Option<bool> {
        match self.sub(other)?.bounds() {
            (_, Some(..0)) => Some(true),
            (Some(0..), _) => Some(false),
            _ => None,
        }
    }

    /// The name, when it is an extent that the model names.
    pub fn name(&self) -> Option<Str> {
        match (self.constant, self.terms()) {
            (0, [t]) => match (&*t.factors, t.coefficient) {
                ([Atom::Symbol(name)], 1) => Some(name.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the model names all of it: it is made of symbols and numbers.
    pub fn is_named(&self) -> bool {
        !self.depends_on(&|_| true)
    }

    /// Whether it depends on an unknown extent or element of a value for which `of` holds.
    pub(super) fn depends_on(&self, of: &dyn Fn(ValueId) -> bool) -> bool {
        let mut atoms = self.terms().iter().flat_map(|t| &t.factors);
        atoms.any(|a| match a {
            Atom::Symbol(_) => false,
            Atom::Extent(value, _) | Atom::Element(value, _) => of(*value),
            Atom::Quotient(p) | Atom::Max(p) | Atom::Min(p) | Atom::Broadcast(p) => {
                p.0.depends_on(of) || p.1.depends_on(of)
            }
        })
    }
}

impl Term {
    /// The least value of the product, when its atoms are not negative or it is one atom.
    fn least(&self) -> Option<i64> {
        match &*self.factors {
            [atom] => atom.lower(),
            several => several.iter().try_fold(1i64, |n, atom| {
                n.checked_mul(atom.lower().filter(|l| *l >= 0)?)
            }),
        }
    }
}

impl Atom {
    fn lower(&self) -> Option<i64> {
        match self {
            Atom::Symbol(_) | Atom::Extent(..) => Some(0),
            Atom::Broadcast(p) => Some(p.0.lower()?.min(p.1.lower()?).max(0)),
            Atom::Element(..) => None,
            Atom::Quotient(p) => Some(match p.0.lower()? {
                low @ ..0 => match p.1.known() {
                    Some(d) => low.div_euclid(d),
                    None => low,
                },
                _ => 0,
            }),
            Atom::Max(p) => p.0.lower().max(p.1.lower()),
            Atom::Min(p) => Some(p.0.lower()?.min(p.1.lower()?)),
        }
    }

    fn size(&self) -> usize {
        match self {
            Atom::Symbol(_) | Atom::Extent(..) | Atom::Element(..) => 1,
            Atom::Quotient(p) | Atom::Max(p) | Atom::Min(p) | Atom::Broadcast(p) => {
                1 + p.0.size() + p.1.size()
            }
        }
    }
}

impl fmt::Display for SymInt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, t) in self.terms().iter().enumerate() {
            match (i, t.coefficient < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            if t.coefficient.unsigned_abs() != 1 {
                write!(f, "{}*", t.coefficient.unsigned_abs())?;
            }
            for (i, atom) in t.factors.iter().enumerate() {
                write!(f, "{}{atom}", if i == 0 { "" } else { "*" })?;
            }
        }
        match (self.terms().is_empty(), self.constant) {
            (true, n) => write!(f, "{n}"),
            (false, 0) => Ok(()),
            (false, n @ ..0) => write!(f, " - {}", n.unsigned_abs()),
            (false, n) => write!(f, " + {n}"),
        }
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A name that reads as an expression keeps its bounds.
            Atom::Symbol(name) if name.contains(|c: char| "+-*/ ,()".contains(c)) => {
                write!(f, "({name})")
            }
            Atom::Symbol(name) => f.write_str(name),
            Atom::Extent(value, axis) => write!(f, "?{}.{axis}", value.index()),
            Atom::Element(value, index) => write!(f, "?{}[{index}]", value.index()),
            Atom::Quotient(p) => write!(f, "floor(({})/({}))", p.0, p.1),
            Atom::Max(p) => write!(f, "max({}, {})", p.0, p.1),
            Atom::Min(p) => write!(f, "min({}, {})", p.0, p.1),
            Atom::Broadcast(p) => write!(f, "broadcast({}, {})", p.0, p.1),
        }
    }
}

impl fmt::Debug for SymInt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
