fn main() {
    let a: Vec<String> = std::env::args().collect();
    let o = onnxq::onnx::open(a[1].as_ref(), Default::default())
        .unwrap_or_else(|e| panic!("{}", e.chain()));
    let t = std::time::Instant::now();
    onnxq::onnx::save(&o.model, a[2].as_ref(), &Default::default())
        .unwrap_or_else(|e| panic!("{}", e.chain()));
    eprintln!("{:?}", t.elapsed());
}
