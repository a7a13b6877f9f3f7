#pragma once

#include <string_view>

/// The style sheet of a report. Internal to flowgrad/plot.
namespace flowgrad::plot {

constexpr std::string_view kReportStyle = R"css(
:root { color-scheme: light; }
* { box-sizing: border-box; }
body {
  margin: 0; background: #f6f6f8; color: #27272a;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main {
  max-width: 1080px; margin: 0 auto; padding: 44px 48px 64px; background: #fff; min-height: 100vh;
  box-shadow: 0 0 0 1px #ececf0;
}
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.015em; color: #111114; }
h2 { font-size: 22px; line-height: 1.3; margin: 48px 0 10px; letter-spacing: -0.01em; color: #111114; }
h3 { font-size: 17px; margin: 28px 0 6px; color: #18181b; }
p, ul { max-width: 46em; margin: 10px 0; }
li { margin: 4px 0; }
.subtitle { color: #71717a; font-size: 17px; margin: 0 0 14px; }
.badge {
  display: inline-block; padding: 3px 12px; border-radius: 999px; font-size: 14px; font-weight: 600;
}
.good { background: #dcfce7; color: #14532d; }
.bad { background: #fee2e2; color: #7f1d1d; }
nav { margin: 18px 0 0; font-size: 15px; }
nav a { color: #0b5cad; text-decoration: none; margin-right: 20px; white-space: nowrap; }
nav a:hover { text-decoration: underline; }
.note { border-left: 4px solid #93c5fd; background: #f3f8ff; padding: 10px 16px; border-radius: 0 8px 8px 0; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 0.88em; }
code { background: #f1f1f4; padding: 1px 5px; border-radius: 4px; }
pre {
  background: #f6f6f8; border: 1px solid #e4e4e7; border-radius: 8px; padding: 12px 16px; overflow-x: auto;
  line-height: 1.5; margin: 12px 0;
}
pre code { background: none; padding: 0; font-size: 1em; }
.scroll { overflow-x: auto; margin: 14px 0; }
table { border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #71717a; font-size: 14px; padding-bottom: 6px; }
th, td { text-align: left; padding: 7px 18px 7px 0; border-bottom: 1px solid #ececf0; vertical-align: top; }
th { color: #52525b; font-weight: 600; font-size: 13.5px; border-bottom-color: #d4d4d8; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.mark { white-space: nowrap; font-weight: 600; padding-right: 0; }
.pass { color: #15803d; }
.fail { color: #b91c1c; }
.small { display: block; color: #71717a; font-size: 13.5px; line-height: 1.4; max-width: 34em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 24px; font-size: 15px; margin: 14px 0; }
dt { color: #71717a; }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 18px 0; }
figure svg, figure img { display: block; max-width: 100%; height: auto; }
figcaption { color: #71717a; font-size: 14px; line-height: 1.45; margin-top: 4px; max-width: 56em; }
.row { display: flex; flex-wrap: wrap; gap: 8px 28px; align-items: flex-start; }
.row figure { margin: 10px 0; max-width: 100%; }
@media (max-width: 700px) { main { padding: 24px 18px 40px; } }
@media print { body { background: #fff; } main { box-shadow: none; padding: 0; } h2, figure { break-inside: avoid; } }
)css";

}  // namespace flowgrad::plot
