//! Waits and replicas over time for a terminal: a line of blocks each.

use super::report::Report;

const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const WIDTH: usize = 72;

/// Two lines for each scaler: the longest wait of the jobs that came in each stretch of time, and the most
/// replicas. All waits have one scale, which ends at twice the objective, and so have all replicas.
pub fn chart(reports: &[Report], target_wait_seconds: f64) -> String {
    let steps = reports.iter().map(|r| r.steps.len()).max().unwrap_or(0);
    let top = |r: &Report| r.most_replicas as f64;
    // What is fixed at the maximum would flatten all others.
    let most = reports.iter().filter(|r| r.scaler != "fixed").map(top).fold(1.0, f64::max);
    let mut text = format!(
        "Over {steps} s, {:.0} s a block. wait: full is {} s and more; replicas: full is {most}.\n",
        (steps as f64 / WIDTH as f64).max(1.0),
        2.0 * target_wait_seconds
    );
    for report in reports {
        let replicas: Vec<f64> = report.steps.iter().map(|s| f64::from(s.replicas)).collect();
        text += &format!("{:>13} wait     {}\n", report.scaler, blocks(&report.waits, 2.0 * target_wait_seconds));
        text += &format!("{:>13} replicas {}\n", "", blocks(&replicas, most));
    }
    text.trim_end().to_owned()
}

/// The highest of each stretch; what is above nothing is never drawn as nothing.
fn blocks(values: &[f64], full: f64) -> String {
    stretches(values, WIDTH)
        .into_iter()
        .map(|v| BLOCKS[if v <= 0.0 { 0 } else { ((v / full * 8.0).round() as usize).clamp(1, 8) }])
        .collect()
}

/// At most `count` stretches of equal length, each by its highest value.
pub(super) fn stretches(values: &[f64], count: usize) -> Vec<f64> {
    let count = count.min(values.len()).max(1);
    (0..count)
        .map(|i| {
            let part = &values[i * values.len() / count..(i + 1) * values.len() / count];
            part.iter().copied().fold(0.0, f64::max)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_shows_the_highest_of_its_stretch() {
        let mut values = vec![0.0; 144];
        values[3] = 4.0;
        values[143] = 100.0;
        let line = blocks(&values, 8.0);
        assert_eq!(line.chars().count(), 72);
        assert!(line.starts_with(" ▄ ") && line.ends_with(" █"), "{line}");
    }

    #[test]
    fn few_values_make_few_blocks() {
        assert_eq!(stretches(&[1.0, 2.0, 3.0], 72), [1.0, 2.0, 3.0]);
        assert_eq!(blocks(&[0.001], 8.0), "▁");
    }
}
