//! Plots of a sweep: accuracy against FLOPs and against time.

mod against;
mod bitmap;
mod chart;
mod front;
mod legend;
mod line;
mod marker;
mod shapes;

use super::cell::Cell;

pub use against::Against;
pub use bitmap::plot_png;

/// Draws cells as SVG: a line for each policy over its budgets with 95% intervals over seeds, the
/// dense model, and the Pareto front.
///
/// # Errors
///
/// What the drawing library says.
pub fn plot_svg(cells: &[Cell], against: Against) -> Result<String, String> {
    let mut svg = String::new();
    let lines = line::lines(cells, against);
    chart::draw(&mut svg, cells, against, &lines).map_err(|error| error.to_string())?;
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::super::synthetic;
    use super::*;

    #[test]
    fn a_plot_names_every_policy_and_its_axes() {
        let cells = synthetic::sweep(50);
        for (against, axis) in [
            (Against::Flops, "FLOPs per image"),
            (Against::Time, "time per image"),
        ] {
            let svg = plot_svg(&cells, against).unwrap();
            for text in [
                "tome",
                "random",
                "evit",
                "dense",
                "Pareto front",
                "test accuracy (%)",
                axis,
            ] {
                assert!(svg.contains(text), "{text}");
            }
            let bad = svg.find("NaN").or(svg.find("inf,"));
            assert_eq!(bad.map(|at| &svg[at.saturating_sub(80)..at + 20]), None);
        }
    }

    #[test]
    fn one_cell_is_enough_and_none_is_an_error() {
        let cell = synthetic::cell("tome", 0.5, 0, 20);
        assert!(plot_svg(&[cell], Against::Time).is_ok());
        assert!(plot_svg(&[], Against::Time).is_err());
    }
}
