//! What points look like.

/// The shape of a point.
#[derive(Clone, Copy)]
pub(super) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    TriangleDown,
    Cross,
    Pentagon,
    Plus,
    /// Of the dense model.
    Star,
}

impl Marker {
    pub const OF_POLICIES: [Self; 8] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Diamond,
        Self::TriangleDown,
        Self::Cross,
        Self::Pentagon,
        Self::Plus,
    ];

    /// Its corners about `center`, in pixels; none of a circle.
    pub fn corners(self, center: (i32, i32), radius: f64) -> Option<Vec<(i32, i32)>> {
        let turn = |count: usize, start: f64, radius: &dyn Fn(usize) -> f64| -> Vec<(f64, f64)> {
            let angle = |i: usize| (start + 360.0 * i as f64 / count as f64).to_radians();
            let corner = |i| (radius(i) * angle(i).cos(), radius(i) * angle(i).sin());
            (0..count).map(corner).collect()
        };
        let corners = match self {
            Self::Circle => return None,
            Self::Square => turn(4, 45.0, &|_| 1.25 * radius),
            Self::Triangle => turn(3, -90.0, &|_| 1.3 * radius),
            Self::TriangleDown => turn(3, 90.0, &|_| 1.3 * radius),
            Self::Diamond => turn(4, 0.0, &|_| 1.3 * radius),
            Self::Pentagon => turn(5, -90.0, &|_| 1.15 * radius),
            Self::Star => turn(10, -90.0, &|i| [1.7, 0.75][i % 2] * radius),
            Self::Cross => cross(1.1 * radius, 0.42 * radius, 45.0),
            Self::Plus => cross(1.2 * radius, 0.42 * radius, 0.0),
        };
        let pixel = |(x, y): (f64, f64)| (center.0 + x.round() as i32, center.1 + y.round() as i32);
        Some(corners.into_iter().map(pixel).collect())
    }
}

/// Two crossed bars, `arm` long and `half` wide to each side, turned by so many degrees.
fn cross(arm: f64, half: f64, degrees: f64) -> Vec<(f64, f64)> {
    let corner = [(half, half), (half, arm), (-half, arm)];
    let (sin, cos) = degrees.to_radians().sin_cos();
    let quarter = |turns: usize| {
        corner.map(|(x, y)| match turns {
            0 => (x, y),
            1 => (-y, x),
            2 => (-x, -y),
            _ => (y, -x),
        })
    };
    let corners = (0..4).flat_map(quarter);
    corners
        .map(|(x, y)| (x * cos - y * sin, x * sin + y * cos))
        .collect()
}
