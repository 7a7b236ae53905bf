// The sum of a value of each of the 64 threads of a workgroup, which all of them must ask for.

var<workgroup> partial: array<f32, 64>;

fn total(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    partial[lane] = value;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) { partial[lane] += partial[lane + half]; }
    }
    workgroupBarrier();
    return partial[0];
}
