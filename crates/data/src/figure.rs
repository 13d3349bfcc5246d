//! Ten figures that differ clearly at a dozen pixels.

/// A filled figure, the class of a generated image. None becomes another one when it is flipped or
/// turned a little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    Circle,
    Square,
    Triangle,
    Cross,
    Ring,
    Star,
    Diamond,
    HalfMoon,
    Hourglass,
    Arrow,
}

impl Figure {
    /// All figures, in the order of their labels.
    pub const ALL: [Self; 10] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Cross,
        Self::Ring,
        Self::Star,
        Self::Diamond,
        Self::HalfMoon,
        Self::Hourglass,
        Self::Arrow,
    ];

    /// The class name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Cross => "cross",
            Self::Ring => "ring",
            Self::Star => "star",
            Self::Diamond => "diamond",
            Self::HalfMoon => "half-moon",
            Self::Hourglass => "hourglass",
            Self::Arrow => "arrow",
        }
    }

    /// Whether a point belongs to the figure, which about fills -1..1 by -1..1; y points down.
    pub fn contains(self, x: f32, y: f32) -> bool {
        let radius = x.hypot(y);
        match self {
            Self::Circle => radius <= 1.0,
            Self::Square => x.abs().max(y.abs()) <= 0.88,
            Self::Triangle => (-1.0..=0.8).contains(&y) && x.abs() <= (y + 1.0) * 0.6,
            Self::Cross => x.abs().min(y.abs()) <= 0.3 && x.abs().max(y.abs()) <= 1.0,
            Self::Ring => (0.58..=1.0).contains(&radius),
            Self::Star => radius <= star_radius(x, y),
            Self::Diamond => x.abs() / 0.65 + y.abs() / 1.1 <= 1.0,
            Self::HalfMoon => radius <= 1.0 && (x - 0.55).hypot(y) > 0.9,
            Self::Hourglass => y.abs() <= 1.0 && x.abs() <= 0.1 + 0.75 * y.abs(),
            Self::Arrow => {
                let shaft = (-1.0..=0.1).contains(&x) && y.abs() <= 0.26;
                let head = (0.0..=1.0).contains(&x) && y.abs() <= 0.95 * (1.0 - x);
                shaft || head
            }
        }
    }
}

/// How far a five-pointed star reaches in the direction of a point; one tip points up.
fn star_radius(x: f32, y: f32) -> f32 {
    const TIP: f32 = 1.1;
    const NOTCH: f32 = 0.42;
    let fifth = std::f32::consts::TAU / 5.0;
    // The angle from the nearest tip: half a fifth leads to the notch beside it.
    let angle = (x.atan2(-y).rem_euclid(fifth) - fifth / 2.0).abs();
    let angle = fifth / 2.0 - angle;
    // The straight edge from tip to notch, in polar coordinates.
    let (sin, cos) = (fifth / 2.0).sin_cos();
    let (sin_angle, cos_angle) = angle.sin_cos();
    TIP * NOTCH * sin / (TIP * sin_angle + NOTCH * (sin * cos_angle - cos * sin_angle))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitmap(figure: Figure, flip: f32, degrees: f32) -> Vec<bool> {
        let (sin, cos) = degrees.to_radians().sin_cos();
        let at = |i: i32| (i as f32 + 0.5) / 20.0 - 1.2;
        (0..48 * 48)
            .map(|i| (flip * at(i % 48), at(i / 48)))
            .map(|(x, y)| figure.contains(cos * x + sin * y, cos * y - sin * x))
            .collect()
    }

    /// Shared area as a share of the united area.
    fn overlap(a: &[bool], b: &[bool]) -> f64 {
        let count = |both: fn((&bool, &bool)) -> bool| a.iter().zip(b).filter(|&p| both(p)).count();
        count(|(a, b)| *a && *b) as f64 / count(|(a, b)| *a || *b) as f64
    }

    #[test]
    fn no_figure_turned_or_flipped_looks_like_another() {
        for a in Figure::ALL {
            let upright = bitmap(a, 1.0, 0.0);
            for b in Figure::ALL.into_iter().filter(|&b| b != a) {
                for (flip, degrees) in [(1.0, 0.0), (-1.0, 0.0), (1.0, 10.0), (1.0, -10.0)] {
                    let overlap = overlap(&upright, &bitmap(b, flip, degrees));
                    assert!(overlap < 0.85, "{a:?} covers {overlap:.2} of {b:?}");
                }
            }
        }
    }

    #[test]
    fn the_star_has_tips_and_notches() {
        let star = |degrees: f32| {
            let (sin, cos) = degrees.to_radians().sin_cos();
            star_radius(sin, -cos)
        };
        assert!((star(0.0) - 1.1).abs() < 1e-5 && (star(72.0) - 1.1).abs() < 1e-4);
        assert!((star(36.0) - 0.42).abs() < 1e-5);
    }
}
