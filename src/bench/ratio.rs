//! Ratios of two sides that took turns.

use serde_json::Value;

/// The rate of one side, and the median of its ratios to the other, slice by slice.
pub(super) fn put(figures: &mut Value, name: &str, own: &[f64], other_name: &str, other: &[f64]) {
    let ratios = own.iter().zip(other).map(|(a, b)| a / b).collect();
    figures[format!("{name}_per_second")] = median(own.to_vec()).round().into();
    figures[format!("{name}_to_{other_name}")] = ratio(median(ratios), 1.0).into();
}

/// To two digits: more would pretend to a precision a shared machine does not have.
pub(super) fn ratio(of: f64, to: f64) -> f64 {
    (of / to * 100.0).round() / 100.0
}

pub(super) fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    (of[(of.len() - 1) / 2] + of[of.len() / 2]) / 2.0
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(super::median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(super::median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
