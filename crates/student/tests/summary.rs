//! The table of a network that people read.

use sensei_graph::summary::summary;
use sensei_student::unet::UnetConfig;

#[test]
fn the_table_has_a_line_per_node_and_the_sums() {
    let graph = UnetConfig::picosam3().graph().expect("a valid setting");
    let table = summary(&graph);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
    assert_eq!(lines.len(), graph.nodes().len() + 2);
    let row = |name: &str| {
        let line = lines.iter().find(|line| line[0] == name).expect("a line of that name");
        line.iter().filter(|cell| !cell.is_empty()).skip(1).copied().collect::<Vec<_>>()
    };
    assert_eq!(row("down1"), ["conv 3x3 stride 2", "48x48x48", "20,736", "47,775,744"]);
    assert_eq!(row("bottleneck.1"), ["depthwise 3x3 dilation 2 + BN + ReLU", "320x6x6", "3,520", "103,680"]);
    assert_eq!(row("skip_conn1"), ["conv 1x1 + bias", "40x96x96", "1,960", "17,694,720"]);
    assert_eq!(row("total"), ["1,371,418", "330,162,496"]);
}
