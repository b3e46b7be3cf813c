use dump_rl::config;
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let config: config::sft::SftConfig = config::load(std::path::Path::new(&args[1]), &args[2..])?;
    dump_rl::commands::sft::run(&config)
}
