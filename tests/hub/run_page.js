// Run the network of a demo page in Node.js: page.html and {"texts": [...], "explained": number of texts} from standard input, answers to its output.
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
    const words = text.length > 1000 ? [] : findWords(text);
    const index = model.config.positive ?? 0, logOdds = model.logOdds(text, index), answer = model.classify(text);
    return {
      ids: model.encode(text),
      ...answer,
      probabilities: [...answer.probabilities],
      words: words.map(([start, end]) => text.slice(start, end)),
      without: words.map((word) => leaveOut(text, word)),
      effects: i < explained && words.map((word) => logOdds - model.logOdds(leaveOut(text, word), index)),
      log_odds: logOdds,
    };
  });
  process.stdout.write(JSON.stringify(answers));
})();
