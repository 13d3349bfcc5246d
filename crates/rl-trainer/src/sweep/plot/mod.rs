//! Plots of a sweep: accuracy against FLOPs and against time.

mod against;
mod bitmap;
mod chart;
mod front;
mod legend;
mod line;
mod marker;
mod palette;
mod shapes;

use super::cell::Cell;

pub use against::Against;
pub use bitmap::plot_png;
pub use palette::COLORS;

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
    fn bars_are_promised_only_where_there_are_some() {
        let plot = |cells: &[Cell]| plot_svg(cells, Against::Flops).unwrap();
        let one = plot(&[synthetic::cell("tome", 0.5, 0, 50)]);
        assert!(one.contains("n = 1: no interval") && !one.contains("t-interval"));
        let short = one.split("points=\"").skip(1);
        let short = short.filter(|rest| rest.split('"').next().unwrap().matches(',').count() < 2);
        assert_eq!(short.count(), 0, "a line through one point");
        let mut cells = synthetic::sweep(50);
        let three = plot(&cells);
        assert!(three.contains("(n = 3), bars: 95% t-interval"));
        assert!(!three.contains("where n"));
        cells.push(synthetic::cell("new", 0.5, 0, 50));
        assert!(plot(&cells).contains("95% t-interval where n is above 1"));
    }

    #[test]
    fn bars_end_in_caps_and_in_arrows_where_they_go_on() {
        use plotters::prelude::*;
        let drawn = |ends| {
            let mut svg = String::new();
            {
                let root = SVGBackend::with_string(&mut svg, (100, 100)).into_drawing_area();
                shapes::bar(&root, ends, BLACK).unwrap();
                root.present().unwrap();
            }
            svg
        };
        let capped = drawn([((50, 80), true), ((50, 20), true)]);
        assert!(
            capped.contains("45,20 55,20") && capped.contains("45,80 55,80"),
            "{capped}"
        );
        let arrow = drawn([((50, 80), true), ((50, 20), false)]);
        assert!(arrow.contains("45,25 50,20 55,25"), "{arrow}");
        let level = drawn([((20, 50), true), ((80, 50), true)]);
        assert!(level.contains("80,45 80,55"), "{level}");
    }

    #[test]
    fn one_cell_is_enough_and_none_is_an_error() {
        let cell = synthetic::cell("tome", 0.5, 0, 20);
        assert!(plot_svg(&[cell], Against::Time).is_ok());
        assert!(plot_svg(&[], Against::Time).is_err());
    }
}
