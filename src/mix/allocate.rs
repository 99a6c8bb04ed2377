//! The least sum of costs within a sum of bits.

use std::cmp::Ordering;

use crate::error::{Error, Result};

/// One way to quantize a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// All that it takes: codes, scales and zero points, in bits.
    pub bits: u64,
    /// What it costs, in any unit that can be added: nats of divergence.
    pub cost: f64,
}

/// A way for each unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// Its number among the ways of each unit.
    pub chosen: Vec<usize>,
    /// All bits.
    pub bits: u64,
    /// The sum of the costs.
    pub cost: f64,
}

/// What an allocation has to stay within.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// So many bits.
    Bits(u64),
    /// This sum of costs.
    Cost(f64),
}

/// Chooses one of the ways of each of `units` so that they stay within `limit`: of bits, with a small sum of costs; of
/// costs, with few bits. It is the best solution that Lagrange multipliers find (Shoham and Gersho 1988), the
/// least cost of all with as many bits; a limit of bits is then filled up with what still fits.
///
/// # Errors
/// The limit is below the least that can be reached: which is said. A unit has no way, or a
/// cost is not finite.
pub fn allocate(units: &[Vec<Way>], limit: Limit) -> Result<Allocation> {
    let mut chosen = Vec::with_capacity(units.len());
    let mut steps = Vec::new();
    for (unit, ways) in units.iter().enumerate() {
        let hull = hull(ways);
        let [first, rest @ ..] = hull.as_slice() else {
            return Err(Error::input("a unit of weights has no way to be quantized"));
        };
        chosen.push(*first);
        let mut from = *first;
        for &to in rest {
            let bits = ways[to].bits - ways[from].bits;
            let gain = ways[from].cost - ways[to].cost;
            let rate = gain / bits as f64;
            steps.push(Step {
                unit,
                from,
                to,
                bits,
                rate,
            });
            from = to;
        }
    }
    // Along the hull of a unit rates fall, so that its steps come in order.
    steps.sort_by(|a, b| b.rate.partial_cmp(&a.rate).unwrap_or(Ordering::Equal));
    let cost =
        |chosen: &[usize]| -> f64 { chosen.iter().zip(units).map(|(&c, w)| w[c].cost).sum() };
    let mut bits: u64 = chosen.iter().zip(units).map(|(&c, w)| w[c].bits).sum();
    for step in &steps {
        let taken = match limit {
            // What does not fit leaves room for others.
            Limit::Bits(most) => chosen[step.unit] == step.from && bits + step.bits <= most,
            Limit::Cost(most) => cost(&chosen) > most,
        };
        if taken {
            chosen[step.unit] = step.to;
            bits += step.bits;
        }
    }
    let cost = cost(&chosen);
    match limit {
        Limit::Bits(most) if bits > most => Err(Error::input(format!(
            "a budget of {most} bits: the least that can be reached is {bits}"
        ))),
        Limit::Cost(most) if cost > most => Err(Error::input(format!(
            "a divergence of {most:.4}: the least that can be reached is {cost:.4}"
        ))),
        _ => Ok(Allocation { chosen, bits, cost }),
    }
}

/// From one way of a unit to the next on its hull.
struct Step {
    unit: usize,
    from: usize,
    to: usize,
    bits: u64,
    /// What is gained for a bit.
    rate: f64,
}

/// The ways on the lower convex hull of cost over bits, from few bits to many; each costs less than the
/// one before.
fn hull(ways: &[Way]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ways.len())
        .filter(|&i| ways[i].cost.is_finite())
        .collect();
    order.sort_by(|&a, &b| {
        let costs = ways[a].cost.partial_cmp(&ways[b].cost);
        ways[a]
            .bits
            .cmp(&ways[b].bits)
            .then(costs.unwrap_or(Ordering::Equal))
    });
    let rate =
        |a: usize, b: usize| (ways[a].cost - ways[b].cost) / (ways[b].bits - ways[a].bits) as f64;
    let mut hull: Vec<usize> = Vec::new();
    for way in order {
        if hull
            .last()
            .is_some_and(|&last| ways[way].cost >= ways[last].cost)
        {
            continue;
        }
        while let [.., before, last] = hull.as_slice()
            && rate(*before, *last) <= rate(*last, way)
        {
            hull.pop();
        }
        hull.push(way);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(ways: &[(u64, f64)]) -> Vec<Way> {
        let way = |&(bits, cost)| Way { bits, cost };
        ways.iter().map(way).collect()
    }

    #[test]
    fn bits_go_where_they_gain_most() {
        let units = [
            ways(&[(40, 10.0), (50, 1.0), (80, 0.0)]),
            ways(&[(40, 2.0), (50, 1.5), (80, 0.1)]),
        ];
        let at = |budget| allocate(&units, Limit::Bits(budget)).unwrap().chosen;
        assert_eq!(at(80), [0, 0]);
        assert_eq!(at(90), [1, 0]);
        assert_eq!(at(100), [1, 1]);
        assert_eq!(at(160), [2, 2]);
        let error = allocate(&units, Limit::Bits(79)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("the least that can be reached is 80")
        );
    }

    #[test]
    fn bits_are_few_within_a_cost() {
        let units = [
            ways(&[(40, 10.0), (50, 1.0), (80, 0.0)]),
            ways(&[(40, 2.0), (50, 1.5), (80, 0.1)]),
        ];
        let at = |cost| allocate(&units, Limit::Cost(cost)).unwrap().chosen;
        assert_eq!(at(12.0), [0, 0]);
        assert_eq!(at(3.0), [1, 0]);
        assert_eq!(at(2.6), [1, 1]);
        assert_eq!(at(0.1), [2, 2]);
        let error = allocate(&units, Limit::Cost(0.05)).unwrap_err();
        assert!(error.to_string().contains("reached is 0.1000"), "{error}");
    }

    #[test]
    fn a_way_that_is_larger_and_worse_is_never_chosen() {
        let units = [ways(&[
            (10, 1.0),
            (20, 2.0),
            (15, f64::NAN),
            (30, 0.5),
            (20, 0.9),
        ])];
        let chosen: Vec<usize> = (10..40)
            .map(|b| allocate(&units, Limit::Bits(b)).unwrap().chosen[0])
            .collect();
        assert!(chosen.iter().all(|c| [0, 3].contains(c)), "{chosen:?}");
        assert!(allocate(&[Vec::new()], Limit::Bits(10)).is_err());
    }

    /// Against all combinations, at the budgets that the solution itself has before it is filled up.
    #[test]
    fn nothing_with_as_many_bits_is_better() {
        let hash =
            |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1 << 24);
        for seed in 0..50 {
            let unit = |u: u64| -> Vec<Way> {
                let way = |w: u64| Way {
                    bits: 10 * (w + 1) + u,
                    cost: hash(seed * 100 + u * 10 + w) / (w + 1) as f64,
                };
                (0..3).map(way).collect()
            };
            let units: Vec<Vec<Way>> = (0..4).map(unit).collect();
            for budget in (60..160).step_by(7) {
                let Ok(found) = allocate(&units, Limit::Bits(budget)) else {
                    continue;
                };
                assert!(found.bits <= budget);
                let mut best = f64::INFINITY;
                for combination in 0..81usize {
                    let pick = |u: usize| units[u][combination / 3usize.pow(u as u32) % 3];
                    let picked: Vec<Way> = (0..4).map(pick).collect();
                    if picked.iter().map(|w| w.bits).sum::<u64>() <= budget {
                        best = best.min(picked.iter().map(|w| w.cost).sum());
                    }
                }
                // The best solution may lie off the hull: by at most the gain of one step.
                let largest = units.iter().flatten().map(|w| w.cost).fold(0.0, f64::max);
                assert!(found.cost >= best - 1e-12 && found.cost <= best + largest);
            }
        }
    }
}
