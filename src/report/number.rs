//! Numbers as people read them: as many digits as say something, and no more.

use crate::eval::report::Estimate;

/// Smaller than this, and numbers are written with a power of ten.
const SMALL: f64 = 1e-3;

/// From here on, numbers are written with a power of ten.
const LARGE: f64 = 1e6;

/// The power of ten of the first digit.
fn exponent(value: f64) -> i32 {
    // Rounded, as what is a hair below a power of ten is printed as that power.
    let text = format!("{:.4e}", value.abs());
    let exponent = text.split_once('e').and_then(|(_, e)| e.parse().ok());
    exponent.unwrap_or(0)
}

/// What is written for what is no number.
fn not_finite(value: f64) -> Option<&'static str> {
    match value {
        v if v.is_nan() => Some("not a number"),
        f64::INFINITY => Some("infinite"),
        f64::NEG_INFINITY => Some("-infinite"),
        _ => None,
    }
}

/// `value` with `digits` significant digits: `0.0312`, `4.10e-6`.
pub(super) fn significant(value: f64, digits: usize) -> String {
    if let Some(text) = not_finite(value) {
        return text.into();
    }
    if value == 0.0 {
        return "0".into();
    }
    let digits = digits.max(1);
    // Rounded first: 0.0009996 is 0.00100 with three digits.
    let rounded: f64 = format!("{value:.*e}", digits - 1).parse().unwrap_or(value);
    match rounded.abs() {
        v if (SMALL..LARGE).contains(&v) => {
            let decimals = digits as i32 - 1 - exponent(rounded);
            format!("{value:.*}", decimals.max(0) as usize)
        }
        _ => format!("{value:.*e}", digits - 1),
    }
}

/// A limit, or another number that somebody wrote: as short as it was.
pub(super) fn given(value: f64) -> String {
    match not_finite(value) {
        Some(text) => text.into(),
        None if value == 0.0 || (1e-4..LARGE).contains(&value.abs()) => value.to_string(),
        None => format!("{value:e}"),
    }
}

/// The estimate to two digits of its standard error: `14.01 ± 0.11`, `(4.10 ± 0.21)e-6`.
pub(super) fn estimate(e: Estimate) -> String {
    let Estimate {
        value,
        standard_error,
    } = e;
    let known = standard_error.is_finite() && standard_error > 0.0;
    if !known || !value.is_finite() {
        return significant(value, 4);
    }
    let size = value.abs().max(standard_error);
    if (SMALL..LARGE).contains(&size) {
        let decimals = decimals_of_error(standard_error);
        return format!("{value:.decimals$} ± {standard_error:.decimals$}");
    }
    let power = exponent(size);
    let scale = 10f64.powi(power);
    let (value, error) = (value / scale, standard_error / scale);
    let decimals = decimals_of_error(error);
    format!("({value:.decimals$} ± {error:.decimals$})e{power}")
}

fn decimals_of_error(error: f64) -> usize {
    (1 - exponent(error)).clamp(0, 9) as usize
}

/// A share as a percentage.
pub(super) fn percent(share: f64) -> String {
    match not_finite(share) {
        Some(text) => text.into(),
        None if share == 0.0 || share == 1.0 => format!("{} %", share * 100.0),
        // What is not all must not be rounded to all.
        None if share > 0.999 && share < 1.0 => {
            let decimals = (1 - exponent((1.0 - share) * 100.0)).clamp(1, 9) as usize;
            format!("{:.decimals$} %", share * 100.0)
        }
        None if share < SMALL => format!("{} %", significant(share * 100.0, 2)),
        None => format!("{:.1} %", share * 100.0),
    }
}

/// An estimated share as a percentage.
pub(super) fn percent_estimate(e: Estimate) -> String {
    if e.standard_error.is_finite() && e.standard_error > 0.0 {
        let hundredfold = Estimate {
            value: e.value * 100.0,
            standard_error: e.standard_error * 100.0,
        };
        format!("{} %", estimate(hundredfold))
    } else {
        percent(e.value)
    }
}

/// A ratio that is near 1: as many decimals as tell it from 1.
pub(super) fn ratio(value: f64) -> String {
    if let Some(text) = not_finite(value) {
        return text.into();
    }
    match value - 1.0 {
        0.0 => "1".into(),
        d => {
            let decimals = (1 - exponent(d)).clamp(4, 9) as usize;
            format!("{value:.decimals$}")
        }
    }
}

/// A duration.
pub(super) fn seconds(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0} s"),
        v if v >= 1.0 => format!("{v:.1} s"),
        v => format!("{} ms", significant(v * 1e3, 3)),
    }
}

/// An integer with its thousands apart (by a narrow space that does not break).
pub(super) fn thousands(value: usize) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) && digits.len() > 4 {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// The same with typographic powers and signs: `4.1e-6` becomes `4.1 × 10⁻⁶`.
pub(super) fn typeset(text: &str) -> String {
    let words: Vec<String> = text.split(' ').map(typeset_word).collect();
    words.join(" ")
}

fn typeset_word(word: &str) -> String {
    let power = word.rsplit_once('e').and_then(|(mantissa, power)| {
        let number = mantissa.ends_with(|c: char| c.is_ascii_digit() || c == ')');
        Some((mantissa, power.parse().ok().filter(|_| number)?))
    });
    let (mantissa, power) = match power {
        Some((mantissa, power)) => (mantissa, format!(" × {}", power_of_ten(power))),
        None => (word, String::new()),
    };
    match mantissa.strip_prefix('-').filter(|m| !m.is_empty()) {
        Some(rest) => format!("\u{2212}{rest}{power}"),
        None => format!("{mantissa}{power}"),
    }
}

/// `10⁻⁶`.
pub(super) fn power_of_ten(exponent: i32) -> String {
    let raised = exponent
        .to_string()
        .chars()
        .map(|c| match c {
            '-' => '⁻',
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            // The other superscript digits follow one another from U+2070.
            d => char::from_u32(0x2070 + d.to_digit(10).unwrap_or(0)).unwrap_or(d),
        })
        .collect::<String>();
    format!("10{raised}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: f64, standard_error: f64) -> Estimate {
        Estimate {
            value,
            standard_error,
        }
    }

    #[test]
    fn digits_that_say_something() {
        assert_eq!(significant(0.031_24, 3), "0.0312");
        assert_eq!(significant(0.000_999_96, 3), "0.00100");
        assert_eq!(significant(4.1e-6, 2), "4.1e-6");
        assert_eq!(significant(12_345.6, 3), "12346");
        assert_eq!(significant(0.0, 3), "0");
        assert_eq!(significant(f64::NAN, 3), "not a number");
        assert_eq!(given(0.01), "0.01");
        assert_eq!(given(1e-7), "1e-7");
        assert_eq!(ratio(1.000_000_3), "1.00000030");
        assert_eq!(ratio(1.084_93), "1.0849");
        assert_eq!(ratio(1.0), "1");
    }

    #[test]
    fn an_error_rounds_its_value() {
        assert_eq!(estimate(of(14.0123, 0.1123)), "14.01 ± 0.11");
        assert_eq!(estimate(of(4.1e-6, 2.1e-7)), "(4.10 ± 0.21)e-6");
        assert_eq!(estimate(of(-0.0123, 0.001)), "-0.0123 ± 0.0010");
        assert_eq!(estimate(of(3.25, 0.0)), "3.250");
        assert_eq!(percent_estimate(of(0.914, 0.0044)), "91.40 ± 0.44 %");
    }

    #[test]
    fn almost_all_is_not_all() {
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.999_99), "99.9990 %");
        assert_eq!(percent(0.914), "91.4 %");
        assert_eq!(percent(0.0), "0 %");
    }

    #[test]
    fn typographic_powers() {
        assert_eq!(typeset("4.1e-6"), "4.1 × 10⁻⁶");
        assert_eq!(typeset("(4.10 ± 0.21)e-6"), "(4.10 ± 0.21) × 10⁻⁶");
        assert_eq!(typeset("-0.5"), "−0.5");
        assert_eq!(typeset("infinite"), "infinite");
        assert_eq!(typeset("1e-12 dB"), "1 × 10⁻¹² dB");
        assert_eq!(typeset("12.3 seconds"), "12.3 seconds");
    }

    #[test]
    fn thousands_apart() {
        assert_eq!(thousands(4096), "4096");
        assert_eq!(thousands(1_234_567), "1\u{202f}234\u{202f}567");
    }
}
