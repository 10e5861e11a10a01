// What the page does in the browser and Gradio lacks: chats saved in localStorage, files read and written
// without the server's disk, and the language. Runs before anything else; `glm` is used by the events of
// app/web/page.py. Gradio's BrowserState would keep all chats under one key, so that two open tabs overwrite each
// other's, and would send them all to the server with every event; here each chat has its own key and stays.
"use strict";

const glm = (() => {
  const PREFIX = "glm-chat:"; // + id -> {title, updated, messages: [{role, content}]}
  const CURRENT = "glm-chat-current"; // in sessionStorage: what this tab shows, also after a reload
  const LARGEST_FILE = 4000000; // characters, as app/conversation.py reads

  // --- the language: Gradio takes it from the navigator and knows two of the many names of Chinese

  const wanted = settings.language === "auto" ? navigator.language : settings.language;
  const chinese = /^zh\b/i.test(wanted);
  const traditional = /\b(hant|tw|hk|mo)\b/i.test(wanted);
  const locale = chinese ? (traditional ? "zh-TW" : "zh-CN") : settings.language === "en" ? "en" : navigator.language;
  Object.defineProperty(navigator, "language", { value: locale, configurable: true });
  document.documentElement.lang = chinese ? locale : "en";
  const words = settings.words[chinese ? "zh" : "en"];

  // --- text: the server marks what could become HTML, and formulas, with an invisible character (app/web/security.py)

  const MARKS = /(<|!|```|\$\$?|\\[[(])\u2060|\u2060(\$\$?|\\[\])])|(<|!|```)\r(?=[A-Za-z/!?[])/g;
  const plain = (text) => text.replace(MARKS, "$1$2$3");

  const textOf = (message) =>
    typeof message.content === "string" ? message.content : message.content.map((part) => part.text ?? "").join("");

  const messagesOf = (transcript) =>
    (transcript ?? []).map((message) => ({ role: message.role, content: plain(textOf(message)) }));

  // The conversation that the page shows, kept up to date by `save`.
  let conversation = [];

  // An event's inputs, of which the first carries the conversation to the server.
  const withHistory = (carrier, ...others) => [JSON.stringify(conversation), ...others];

  // --- an answer: until all of it has arrived, no other conversation may be shown, or the rest would land there

  let answering = false;

  function ask(...inputs) {
    answering = true;
    const view = document.querySelector("#transcript .bubble-wrap");
    if (view) view.scrollTop = view.scrollHeight; // from there Gradio follows the answer
    return withHistory(...inputs);
  }

  function answered() {
    answering = false;
  }

  async function endOfAnswer() {
    for (let waited = 0; answering && waited < 5000; waited += 20) {
      stop();
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  const stop = () => document.querySelector("#message .stop-button")?.click();

  // --- the clipboard

  // Copying gives the text without the marks: a selection, a button where the page is not on HTTPS ...
  document.addEventListener("copy", (event) => {
    const field = document.activeElement;
    const selected =
      field instanceof HTMLTextAreaElement
        ? field.value.slice(field.selectionStart, field.selectionEnd)
        : String(document.getSelection());
    if (plain(selected) !== selected) {
      event.clipboardData.setData("text/plain", plain(selected));
      event.preventDefault();
    }
  });
  // ... and a button where it is.
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(plain(text));
  }

  // --- saved chats

  // Where the browser is told to keep nothing, a store that lasts as long as the page.
  function storage(name) {
    try {
      return window[name];
    } catch {
      return Object.create({
        getItem(key) {
          return this[key] ?? null;
        },
        setItem(key, value) {
          this[key] = value;
        },
        removeItem(key) {
          delete this[key];
        },
      });
    }
  }
  const localStorage = storage("localStorage");
  const sessionStorage = storage("sessionStorage");

  const read = (id) => {
    try {
      const chat = JSON.parse(localStorage.getItem(PREFIX + id));
      return Array.isArray(chat?.messages) ? chat : null;
    } catch {
      return null;
    }
  };

  const current = () => sessionStorage.getItem(CURRENT);
  const setCurrent = (id) => (id ? sessionStorage.setItem(CURRENT, id) : sessionStorage.removeItem(CURRENT));

  const newId = () => Date.now().toString(36) + "-" + Math.random().toString(36).slice(2, 10);

  const titleOf = (messages) => {
    const asked = messages.find((message) => message.role === "user") ?? messages[0];
    return asked.content.trim().split("\n")[0].slice(0, 60);
  };

  let full = false; // told once, not with every word of an answer

  function store(id, messages) {
    const chat = { title: titleOf(messages), updated: Date.now(), messages };
    try {
      localStorage.setItem(PREFIX + id, JSON.stringify(chat));
    } catch {
      if (!full) window.alert(words.list_full);
      full = true;
    }
  }

  function save(transcript) {
    const messages = messagesOf(transcript);
    conversation = messages;
    if (!messages.length) return;
    if (!current()) setCurrent(newId());
    const before = read(current());
    if (before && JSON.stringify(before.messages) === JSON.stringify(messages)) return;
    store(current(), messages);
    if (before?.title !== titleOf(messages) || first !== current()) draw();
  }

  const list = () =>
    Object.keys(localStorage)
      .filter((key) => key.startsWith(PREFIX))
      .map((key) => ({ id: key.slice(PREFIX.length), ...read(key.slice(PREFIX.length)) }))
      .filter((chat) => chat.messages)
      .sort((one, other) => other.updated - one.updated);

  async function startNew() {
    focusBox();
    await endOfAnswer();
    setCurrent(null);
    draw();
    return [];
  }

  async function forgetShown() {
    await endOfAnswer();
    forget(current());
    return [];
  }

  // Gradio's button that clears asks nothing, and its event comes when the conversation is gone: the click is held back.
  document.addEventListener(
    "click",
    (event) => {
      if (!event.target.closest?.("#transcript .top-panel button") || !shown()) return;
      if (!window.confirm(words.list_confirm)) event.stopImmediatePropagation();
    },
    true,
  );

  function forget(id) {
    localStorage.removeItem(PREFIX + id);
    if (id === current()) setCurrent(null);
    draw();
  }

  const shown = () => {
    const chat = current() && read(current());
    return chat ? JSON.stringify(chat.messages) : "";
  };

  // --- the list of saved chats: it tells Gradio to "open" the current one, or that it was "removed"

  let panel = null;
  let first = null; // the chat at the top of the list as it is drawn

  function attach(element, trigger) {
    panel = { element, trigger };
    draw();
    window.addEventListener("storage", draw); // another tab saved or deleted one
  }

  function draw() {
    if (!panel) return;
    const chats = list();
    first = chats[0]?.id;
    const rows = chats.map((chat) => {
      const row = document.createElement("li");
      row.className = chat.id === current() ? "shown" : "";
      row.append(button("open", chat.title || "…", () => open(chat.id)), button("delete", "×", () => remove(chat.id)));
      row.firstChild.title = chat.title;
      row.lastChild.title = words.list_delete;
      row.lastChild.setAttribute("aria-label", words.list_delete);
      return row;
    });
    const drawn = document.createElement(rows.length ? "ul" : "p");
    drawn.className = "glm-chats";
    drawn.append(...(rows.length ? rows : [words.list_empty]));
    panel.element.replaceChildren(drawn);
  }

  function button(name, label, act) {
    const made = document.createElement("button");
    made.type = "button";
    made.className = name;
    made.textContent = label;
    made.addEventListener("click", act);
    return made;
  }

  async function open(id) {
    focusBox();
    await endOfAnswer();
    setCurrent(id);
    draw();
    panel.trigger("open");
  }

  async function remove(id) {
    if (!window.confirm(words.list_confirm)) return;
    if (id === current()) {
      await forgetShown();
      panel.trigger("removed");
    } else {
      forget(id);
    }
  }

  // --- files: read and written here, so that no conversation is ever a file of the server

  function download(text, ending) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = "chat-" + new Date().toISOString().slice(0, 10) + "." + ending;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function pickFile() {
    return new Promise((resolve) => {
      const input = document.createElement("input");
      input.type = "file";
      input.accept = ".json,.md,.markdown,.txt,application/json,text/markdown,text/plain";
      input.addEventListener("cancel", () => resolve(""));
      input.addEventListener("change", async () => {
        const file = input.files[0];
        if (file.size > 4 * LARGEST_FILE) {
          window.alert(words.list_too_large);
          resolve("");
        } else {
          resolve((await file.text()) || "\n"); // "" would be no file
        }
      });
      input.click();
    });
  }

  // What the server made of a file, "" if nothing: a chat of its own.
  function imported(json) {
    const messages = json ? JSON.parse(json).messages : [];
    if (!messages.length) return;
    const id = newId();
    store(id, messages);
    open(id);
  }

  // --- the side bar: open where there is room for it beside the conversation

  const sideBar = () => ({ open: window.innerWidth > 900, __type__: "update" });

  function showChat() {
    focusBox();
    return { selected: "chat", __type__: "update" };
  }

  // --- blanks: a [MASK] in place of what is selected in the text, or where the cursor is

  function insertBlank(text) {
    const field = document.querySelector("#fill-text textarea");
    const [start, end] = [field.selectionStart, field.selectionEnd];
    const blank = "[MASK]";
    setTimeout(() => {
      field.focus();
      field.setSelectionRange(start + blank.length, start + blank.length);
    }, 50); // when Gradio has written the text
    return text.slice(0, start) + blank + text.slice(end);
  }

  // --- light and dark: the system's choice, or the visitor's

  const THEME = "glm-theme";

  function showTheme() {
    const chosen = localStorage.getItem(THEME);
    if (chosen) document.body.classList.toggle("dark", chosen === "dark");
  }

  function toggleTheme() {
    localStorage.setItem(THEME, document.body.classList.contains("dark") ? "light" : "dark");
    showTheme();
  }

  // --- the keyboard: what is typed next goes into the message box, and Escape stops what the tab in front is doing

  // Waits for the box while the other tab is in front, and leaves alone who writes elsewhere by then. On a phone the
  // keyboard would cover what was asked for.
  function focusBox(patience = 50) {
    if (window.matchMedia("(pointer: coarse)").matches) return;
    if (document.activeElement?.matches("input, textarea")) return;
    const field = document.querySelector("#message textarea");
    if (field?.offsetParent) field.focus();
    else if (patience) setTimeout(focusBox, 20, patience - 1);
  }

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.isComposing) return;
    for (const name of ["#message .stop-button", "#fill-stop"]) {
      const button = document.querySelector(name);
      if (button?.offsetParent) button.click();
    }
  });

  return {
    withHistory, ask, answered, save, startNew, forgetShown, shown, attach,
    download, pickFile, imported, sideBar, showChat, insertBlank, showTheme, toggleTheme, focusBox,
  };
})();
