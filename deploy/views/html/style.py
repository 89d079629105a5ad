"""The style sheet: light and dark, narrow and wide, print; colours after Okabe and Ito, told apart without colour vision."""

_LIGHT = """
--bg:#fff;--card:#f6f7f9;--ink:#1b1f24;--soft:#57606a;--rule:#d0d7de;--accent:#0b5cad;--good:#0a6b3d;--bad:#a4161a;
--c0:#0072b2;--c1:#e69f00;--c2:#009e73;--c3:#cc79a7;--c4:#56b4e9;--c5:#d55e00;--hatch:#ffffffb0;--band:#0072b22e;
--measured:#0b5cad;--estimated:#8a5a00;--cited:#57606a;--on0:#fff"""
_DARK = """
--bg:#0f1318;--card:#181e26;--ink:#e6eaef;--soft:#a3adb8;--rule:#38424d;--accent:#7ab8ff;--good:#5fd39a;--bad:#ff8f8f;
--c0:#4aa8e8;--c1:#f0b429;--c2:#2fc598;--c3:#e59cc6;--c4:#8fd0f7;--c5:#f58b4c;--hatch:#0f1318b0;--band:#4aa8e83d;
--measured:#7ab8ff;--estimated:#f0b429;--cited:#a3adb8;--on0:#10151b"""

STYLE = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}}
main,header,nav{{max-width:66rem;margin:0 auto;padding:0 1.25rem}}
header{{padding-top:1.75rem}}
h1{{font-size:1.7rem;margin:0 0 .2rem;overflow-wrap:anywhere}}
h2{{font-size:1.25rem;margin:0 0 .6rem}}
h3{{font-size:1rem;margin:1.4rem 0 .4rem}}
p{{margin:.5rem 0;max-width:48rem}}
.lead{{color:var(--soft);overflow-wrap:anywhere}}
.kinds{{display:flex;flex-wrap:wrap;gap:.2rem 1.4rem;max-width:none}}
nav ul{{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1rem;padding:0;margin:.8rem 0 0;font-size:.92rem}}
a{{color:var(--accent)}}
a:focus-visible,.scroll:focus-visible,summary:focus-visible{{outline:2px solid var(--accent);outline-offset:2px}}
section{{border-top:1px solid var(--rule);padding:1.4rem 0 1.2rem;margin-top:1.2rem}}
.cards{{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.7rem;margin:.8rem 0}}
.card{{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:.6rem .8rem;min-width:0}}
.card b{{display:block;font-size:1.35rem;line-height:1.3;overflow-wrap:anywhere}}
.card span{{color:var(--soft);font-size:.88rem}}
.good b{{color:var(--good)}}.bad b{{color:var(--bad)}}
.badge{{display:inline-block;font-size:.75rem;line-height:1.35;padding:0 .45rem;border-radius:4px;vertical-align:.1em;
border:1.5px solid currentColor;margin-right:.45rem;font-weight:600}}
.badge.measured{{color:var(--measured)}}
.badge.estimated{{color:var(--estimated);border-style:dashed}}
.badge.cited{{color:var(--cited);border-style:dotted;font-style:italic}}
.badge.computed{{color:var(--ink)}}
dl{{font-size:.9rem;max-width:52rem}}dt{{font-weight:600;margin-top:.5rem}}dd{{margin:0 0 0 1rem}}
th.name{{white-space:normal;min-width:11rem}}
.scroll{{overflow-x:auto;max-width:100%}}
table{{border-collapse:collapse;font-size:.9rem;margin:.4rem 0;font-variant-numeric:tabular-nums}}
caption{{text-align:left;color:var(--soft);padding-bottom:.3rem}}
th,td{{padding:.22rem .7rem .22rem 0;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap;vertical-align:top}}
th:first-child,td:first-child{{text-align:left}}
td.words,th.words{{text-align:left}}
td.wide,th.wide{{text-align:left;white-space:normal;min-width:14rem;overflow-wrap:anywhere}}
tfoot td,tfoot th{{font-weight:600}}
tr.pick td,tr.pick th{{font-weight:700}}
tr.cited td,tr.cited th{{color:var(--cited);font-style:italic}}
code{{font:.88em/1.4 ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}}
figure{{margin:1rem 0}}
figcaption{{color:var(--soft);font-size:.88rem;max-width:52rem;margin-top:.3rem}}
details{{margin:.6rem 0}}summary{{cursor:pointer;color:var(--accent)}}
svg{{display:block;height:auto}}
svg.patterns{{position:absolute}}
svg text{{fill:var(--ink);font-size:12px}}
svg .tick{{fill:var(--soft);font-size:11.5px}}svg .label{{fill:var(--soft);font-size:12px}}
svg .strong{{font-weight:600}}
svg .grid{{stroke:var(--rule);stroke-width:1}}svg .axis{{stroke:var(--soft);stroke-width:1}}
svg .wire{{stroke:var(--soft);stroke-width:1.4;fill:none}}svg .side{{stroke-dasharray:4 3}}
svg .box{{fill:var(--card);stroke:var(--soft)}}svg .host{{stroke-dasharray:5 3}}
svg .arrow{{fill:var(--soft)}}
svg .c0{{fill:var(--c0)}}svg .c1{{fill:var(--c1)}}svg .c2{{fill:var(--c2)}}
svg .c3{{fill:var(--c3)}}svg .c4{{fill:var(--c4)}}svg .c5{{fill:var(--c5)}}
svg .cited{{fill:none;stroke:var(--cited);stroke-width:1.5;stroke-dasharray:2 2}}
svg text.cited{{fill:var(--cited);stroke:none;font-style:italic}}
svg .hatchline{{stroke:var(--hatch);stroke-width:4}}
svg .spike{{fill:var(--ink)}}svg .lane{{fill:var(--card)}}
svg .chip{{fill:none;stroke:var(--soft);stroke-width:1.2}}svg text.core{{font-size:10.5px;fill:#10151b;font-weight:600}}
svg text.t0{{fill:var(--on0)}}
.key{{display:inline-block;min-width:1.6em;text-align:center;border-radius:3px;color:#10151b;padding:0 .25em}}
.k0{{background:var(--c0);color:var(--on0)}}.k1{{background:var(--c1)}}.k2{{background:var(--c2)}}
.k3{{background:var(--c3)}}.k4{{background:var(--c4)}}.k5{{background:var(--c5)}}
.small{{font-size:.88rem;color:var(--soft);max-width:52rem;overflow-wrap:anywhere}}
svg .s0{{stroke:var(--c0)}}svg .s1{{stroke:var(--c5)}}svg .s2{{stroke:var(--c2)}}
svg .s3{{stroke:var(--c3)}}svg .s4{{stroke:var(--c4)}}svg .s5{{stroke:var(--c1)}}
svg .s1{{stroke-dasharray:7 3}}svg .s2{{stroke-dasharray:2 3}}svg .s3{{stroke-dasharray:9 3 2 3}}svg .s4{{stroke-dasharray:5 5}}
svg .s6{{stroke:var(--c5);stroke-dasharray:2 4}}svg .s7{{stroke:var(--ink);stroke-dasharray:1 3}}
svg .curve{{stroke-width:2.2}}svg .citedline{{stroke:var(--cited);stroke-width:1;stroke-dasharray:1 2}}
svg .band{{fill:var(--band)}}
@media print{{
:root{{color-scheme:light;{_LIGHT}}}
*{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
nav{{display:none}}main,header{{max-width:none;padding:0}}
section{{break-inside:auto}}figure,table,.cards{{break-inside:avoid}}h2,h3{{break-after:avoid}}
.scroll{{overflow:visible}}svg{{min-width:0!important}}body{{font-size:11pt}}
table{{font-size:8.5pt}}th,td{{padding-right:.45rem}}
}}
@media (max-width:40rem){{main,header,nav{{padding:0 .8rem}}h1{{font-size:1.35rem}}
th:first-child{{white-space:normal;min-width:6.5rem;overflow-wrap:anywhere}}}}
"""
