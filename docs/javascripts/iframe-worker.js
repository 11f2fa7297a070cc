// Search runs in a worker, which browsers refuse to pages that are opened from a folder: there, run it in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.documentElement.append(frame)
      this.inside = frame.contentWindow
      const load = (script) => new Promise((resolve, reject) => {
        const element = frame.contentDocument.createElement("script")
        element.src = script
        element.onload = resolve
        element.onerror = () => reject(new Error(`cannot load ${script}`))
        frame.contentDocument.documentElement.append(element)
      })
      this.inside.importScripts = (...scripts) =>
        scripts.reduce((done, script) => done.then(() => load(script)), Promise.resolve())
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      this.ready = load(url)
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.inside.frameElement.remove()
    }
  }
}
