fn main() {
    let a = |i: usize| std::env::args().nth(i).unwrap().parse::<u64>().unwrap();
    let mut bad = 0;
    for seed in a(1)..a(2) {
    let s = vgpu_sched_sim::Scenario::new(seed);
    match vgpu_sched_sim::run(&s) {
      Err(v) => { bad += 1; println!("{seed}: {} {}", v.at_us, v.what); if a(2) == a(1)+1 { for l in v.last { println!("{l}"); } } }
      Ok(s) => if a(2) == a(1)+1 { println!("{s:#?}") }
    }
    }
    println!("{bad} bad");
}
