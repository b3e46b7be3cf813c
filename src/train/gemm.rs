//! Matrix products of f32 slices on a CPU, added to the output.

use std::time::{Duration, Instant};

/// A matrix (rows × cols) in a slice, row by row.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// A matrix of `cols` columns and as many rows as `values` fill.
    pub fn new(values: &'a [f32], cols: usize) -> Self {
        Self { values, rows: values.len() / cols.max(1), cols, transposed: false }
    }

    /// The transpose: the same values, read the other way.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Distance in the slice between columns, and between rows.
    fn strides(&self) -> (isize, isize) {
        if self.transposed { (self.rows as isize, 1) } else { (1, self.cols as isize) }
    }
}

/// `out` (m × n) += `factor` · a (m × k) · b (k × n), on the threads of the current pool.
pub fn add_product(out: &mut [f32], factor: f32, a: Matrix, b: Matrix) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert!(b.rows == k && out.len() == m * n, "({m} × {k}) · ({} × {n}) into {}", b.rows, out.len());
    assert!(a.values.len() == m * k && b.values.len() == k * n);
    let threads = match m * k * n {
        0..=1_000_000 => 1,
        _ => rayon::current_num_threads(),
    };
    let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    let ((a_cs, a_rs), (b_cs, b_rs)) = (a.strides(), b.strides());
    // SAFETY: the assertions above keep sizes and strides within the slices, and `out` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            true,
            a.values.as_ptr(),
            a_cs,
            a_rs,
            b.values.as_ptr(),
            b_cs,
            b_rs,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Floating-point operations per second of a large product on all threads, measured for 0.1 s.
pub fn measured_rate() -> f64 {
    const SIZE: usize = 512;
    let (a, b, mut out) = (vec![0.5; SIZE * SIZE], vec![0.25; SIZE * SIZE], vec![0.0; SIZE * SIZE]);
    let (start, mut products) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(100) {
        add_product(&mut out, 1.0, Matrix::new(&a, SIZE), Matrix::new(&b, SIZE));
        products += 1;
    }
    (products * 2 * SIZE.pow(3)) as f64 / start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_matrices_and_transposes_are_added() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, -1.0, 2.0, 1.0, 1.0]);
        let mut out = [10.0; 4];
        add_product(&mut out, 2.0, Matrix::new(&a, 3), Matrix::new(&b, 2));
        assert_eq!(out, [14.0, 24.0, 20.0, 42.0]);
        let mut out = [0.0; 9];
        add_product(&mut out, 1.0, Matrix::new(&a, 3).t(), Matrix::new(&b, 3));
        assert_eq!(out, [9.0, 4.0, 3.0, 12.0, 5.0, 3.0, 15.0, 6.0, 3.0]);
        let mut out = [0.0; 4];
        add_product(&mut out, 1.0, Matrix::new(&a, 3), Matrix::new(&b, 3).t());
        assert_eq!(out, [-2.0, 7.0, -2.0, 19.0]);
    }
}
