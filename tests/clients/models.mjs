// A model that is aimock's: it calls two tools at once, and ends when it has their results. Prints its address.

import { LLMock } from "@copilotkit/aimock";

const model = new LLMock({ port: 0, host: "127.0.0.1", logLevel: "silent", auth: { apiKeys: ["a-secret-key"] } });
const results = (request) => request.messages.filter((message) => message.role === "tool");
model.on({ predicate: (request) => results(request).length >= 2 }, (request) => {
  const seen = JSON.stringify(results(request));
  return { content: seen.includes("one-42") && seen.includes("two-42") ? "Both ran." : `No results: ${seen}` };
});
model.on({ predicate: (request) => (request.tools ?? []).some((tool) => tool.function.name === "exec") }, () => {
  const call = (word) => ({ name: "exec", arguments: JSON.stringify({ command: `echo ${word}-$((6 * 7))` }) });
  return { content: "I run both.", toolCalls: [call("one"), call("two")], reasoning: "Two at once." };
});
model.on({ predicate: () => true }, () => ({ content: "ok" }));
await model.start();
console.log(model.url);
