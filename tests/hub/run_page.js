// Run the network of a demo page in Node.js: node run_page.js page.html < {"texts": [...], "explained": count}, which
// prints the answers to all texts, with the words and effects of the first `count` of them.
const fs = require("node:fs");
const page = fs.readFileSync(process.argv[2], "utf-8");
const content = (opening) => page.match(new RegExp(`${opening}>([^]*?)</script>`))[1];
const exported = {};
new Function("module", content("<script"))(exported);
const { unpack, findWords, leaveOut } = exported.exports;

(async () => {
  const { texts, explained } = JSON.parse(fs.readFileSync(0, "utf-8"));
  const layout = content('<script type="application/json" id="layout"');
  const model = await unpack(JSON.parse(layout), content('<script type="text/plain" id="weights"'));
  const answers = texts.map((text, i) => {
    const answer = model.classify(text);
    const found = { ...answer, ids: model.encode(text), probabilities: [...answer.probabilities] };
    if (i >= explained) return found;
    const index = model.config.positive ?? answer.index, logOdds = model.logOdds(text, index), words = findWords(text);
    return {
      ...found,
      explained: index,
      log_odds: logOdds,
      words: words.map(([start, end]) => text.slice(start, end)),
      effects: words.map((word) => logOdds - model.logOdds(leaveOut(text, word), index)),
    };
  });
  process.stdout.write(JSON.stringify(answers));
})();
